using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>What the header of a <see cref="SafeTensorsFile"/> says of a tensor.</summary>
/// <param name="Type">Element type.</param>
/// <param name="Shape">Size of each dimension, outermost first; empty for a single number.</param>
/// <param name="ByteSize">Bytes of the tensor in the file.</param>
public sealed record SafeTensorsEntry(ScalarType Type, IReadOnlyList<long> Shape, long ByteSize)
{
    /// <summary>First byte of the tensor, counted from the end of the header.</summary>
    internal long Begin { get; init; }
}

/// <summary>The header of a file.</summary>
/// <param name="Names">Names of the tensors, in the order of the header.</param>
/// <param name="Entries">The tensors by name.</param>
/// <param name="Metadata">The free text that came along.</param>
internal sealed record SafeTensorsHeader(
    IReadOnlyList<string> Names, IReadOnlyDictionary<string, SafeTensorsEntry> Entries, IReadOnlyDictionary<string, string> Metadata);
