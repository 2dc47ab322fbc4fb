using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>Checks that a file has what is to be loaded, no more and no less.</summary>
internal static class FileContent
{
    private const int MostShown = 5;

    /// <summary>Throws unless the tensors of a file are those expected, by name, dtype and shape.</summary>
    public static void Require(SafeTensorsFile file, string path, IReadOnlyList<(string Name, Tensor Tensor)> expected)
    {
        var reader = new StateReader(file, path);
        var names = expected.Select(entry => entry.Name).ToHashSet();
        var problems = expected.Select(entry => reader.Problem(entry.Name, entry.Tensor, [])).OfType<string>()
            .Concat(file.Names.Where(name => !names.Contains(name))
                .Select(name => $"tensor '{name}': expected none of this name; found one"))
            .ToArray();
        if (problems.Length > 0)
        {
            var more = problems.Length > MostShown ? $"; and {problems.Length - MostShown} more" : "";
            throw new InvalidDataException($"{path}: {string.Join("; ", problems.Take(MostShown))}{more}.");
        }
    }
}
