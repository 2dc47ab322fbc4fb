using System.Text;

namespace Hybrid.Samples;

/// <summary>The text of a run, what to call it, and a prompt that fits it.</summary>
internal sealed record CorpusText(string Text, string Description, string Prompt)
{
    private static readonly string[] OwnFolders = ["src", "tests", "samples", "benchmarks"];
    private static readonly string[] OwnPatterns = ["*.md", "*.cs"];

    /// <summary>Reads a file, or the repository's own Markdown and C# files in a fixed order.</summary>
    public static CorpusText Read(string? path)
    {
        if (path is not null)
        {
            var text = File.ReadAllText(path);
            var line = text.Split('\n').FirstOrDefault(candidate => candidate.Trim().Length > 3) ?? "The";
            return new CorpusText(text, Path.GetFileName(path), line[..Math.Min(line.Length, 60)] + "\n");
        }

        var root = RepositoryFiles.Root;
        var files = Directory.GetFiles(root, "*.md")
            .Concat(OwnFolders.SelectMany(folder => Sources(Path.Combine(root, folder))))
            .Order(StringComparer.Ordinal)
            .ToArray();
        var all = new StringBuilder();
        foreach (var file in files)
        {
            all.Append(File.ReadAllText(file)).Append('\n');
        }

        return new CorpusText(all.ToString(), $"{files.Length} Markdown and C# files of the repository", "    /// <summary>");
    }

    private static IEnumerable<string> Sources(string folder) =>
        !Directory.Exists(folder)
            ? []
            : OwnPatterns.SelectMany(pattern => Directory.GetFiles(folder, pattern, SearchOption.AllDirectories))
                .Where(file => !file.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}", StringComparison.Ordinal)
                    && !file.Contains($"{Path.DirectorySeparatorChar}bin{Path.DirectorySeparatorChar}", StringComparison.Ordinal));
}
