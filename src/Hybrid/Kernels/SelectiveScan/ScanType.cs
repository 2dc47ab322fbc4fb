using TorchSharp;

namespace Hybrid.Kernels;

/// <summary>The forms of the selective scan. All give the same numbers, up to rounding.</summary>
public enum ScanType
{
    /// <summary>The fused kernel where it can run, else the associative form.</summary>
    Auto,

    /// <summary>One step after the other, from tensor operations: the recurrence as it is written. Slow; for comparison.</summary>
    Linear,

    /// <summary>Chunks of about sqrt(T) steps side by side, from tensor operations, on any device.</summary>
    Associative,

    /// <summary>One pass over time in a kernel of its own, where there is one for the device and the dtype.</summary>
    Fused,
}

/// <summary>What one call of a Mamba mixer did.</summary>
/// <param name="ScanAlgorithm">The form that ran: linear, associative or fused.</param>
/// <param name="Complexity">Its cost over T tokens.</param>
/// <param name="Kernel">The code that ran.</param>
/// <param name="SequenceLength">Time steps T.</param>
/// <param name="BatchSize">Rows B.</param>
/// <param name="DState">State size N.</param>
/// <param name="Device">Kind of device.</param>
public sealed record ScanMetrics(
    ScanType ScanAlgorithm, ComputeComplexity Complexity, string Kernel, long SequenceLength, long BatchSize, long DState, DeviceType Device);

/// <summary>Cost of the forms.</summary>
internal static class ScanComplexity
{
    /// <summary>Chunks of sqrt(T) steps run side by side, then sqrt(T) chunks are chained; the other forms step through time.</summary>
    public static ComputeComplexity Of(ScanType form) => new("O(T)", form == ScanType.Associative ? "O(sqrt T)" : "O(T)");
}
