namespace Hybrid.Samples;

/// <summary>Finds the repository's files from wherever the sample is started.</summary>
internal static class RepositoryFiles
{
    /// <summary>The folder with the solution, above the working directory or the program; the working directory where there is none.</summary>
    public static string Root { get; } =
        Ancestors(Directory.GetCurrentDirectory()).Concat(Ancestors(AppContext.BaseDirectory))
            .FirstOrDefault(folder => File.Exists(Path.Combine(folder, "Hybrid.sln"))) ?? Directory.GetCurrentDirectory();

    /// <summary>A path as given, or below the repository's root.</summary>
    public static string Find(string path) => File.Exists(path) ? path : Path.Combine(Root, path);

    private static IEnumerable<string> Ancestors(string folder)
    {
        for (var current = new DirectoryInfo(folder); current is not null; current = current.Parent)
        {
            yield return current.FullName;
        }
    }
}
