using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>Reads what a state, a model or an optimizer needs from a file, and says clearly what does not fit.</summary>
/// <param name="file">The open file.</param>
/// <param name="path">Its name, for messages.</param>
internal sealed class StateReader(SafeTensorsFile file, string path)
{
    /// <summary>A text that was stored along; null if there is none of this key.</summary>
    public string? Metadata(string key) => file.Metadata.GetValueOrDefault(key);

    /// <summary>Reads a tensor in place of another.</summary>
    /// <param name="name">Name in the file.</param>
    /// <param name="like">Gives dtype, device and shape.</param>
    /// <param name="freeDimensions">Dimensions whose size may differ.</param>
    /// <returns>A new tensor in the current dispose scope.</returns>
    public Tensor Read(string name, Tensor like, IReadOnlyList<int> freeDimensions)
    {
        if (Problem(name, like, freeDimensions) is { } problem)
        {
            throw new InvalidDataException($"{path}: {problem}.");
        }

        return file.Read(name, like.device);
    }

    /// <summary>Size of a dimension of a stored tensor that was read before.</summary>
    public long Size(string name, int dimension) => file.Entry(name).Shape[dimension];

    /// <summary>What keeps a tensor from being read in place of another; null if it fits.</summary>
    public string? Problem(string name, Tensor like, IReadOnlyList<int> freeDimensions)
    {
        var (type, shape) = (like.dtype, like.shape);
        var sizes = shape.Select((size, i) => freeDimensions.Contains(i) ? "any" : $"{size}");
        var expected = $"{SafeTensorsType.Name(type)} [{string.Join(", ", sizes)}]";
        if (!file.Contains(name))
        {
            return $"tensor '{name}': expected {expected}; found no tensor of this name";
        }

        var entry = file.Entry(name);
        var fits = entry.Type == type && entry.Shape.Count == shape.Length &&
            shape.Select((size, i) => size == entry.Shape[i] || freeDimensions.Contains(i)).All(same => same);
        return fits
            ? null
            : $"tensor '{name}': expected {expected}; found {SafeTensorsType.Name(entry.Type)} [{string.Join(", ", entry.Shape)}]";
    }

    /// <summary>An error about something else in the file.</summary>
    public InvalidDataException Mismatch(string expected, string found) => new($"{path}: expected {expected}; found {found}.");
}
