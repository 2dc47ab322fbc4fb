using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace Hybrid.Routing;

/// <summary>What a policy reads besides length, batch, mode, dtype and device. A router measures only what its policy asks for.</summary>
[Flags]
public enum RoutingInputs
{
    /// <summary>Nothing else.</summary>
    None = 0,

    /// <summary><see cref="RoutingRequest.Content"/>: one pass over the hidden states.</summary>
    Content = 1,

    /// <summary><see cref="RoutingRequest.FreeMemoryMib"/>: one question to the operating system.</summary>
    FreeMemory = 2,
}

/// <summary>
/// What a policy decides on. Everything that it may read stands here, so that two equal requests have equal decisions: this is what makes
/// a decision cache exact.
/// </summary>
/// <param name="Length">Length of the sequence, in tokens; at least 1.</param>
public readonly record struct RoutingRequest(long Length)
{
    /// <summary>Size of the steps in which <see cref="FreeMemoryMib"/> is given, in MiB.</summary>
    public const long MemoryStepMib = 64;

    private readonly long? freeMemoryMib;

    /// <summary>Sequences of the call; at least 1. Default 1.</summary>
    public long BatchSize { get; init; } = 1;

    /// <summary>True while training. Default false.</summary>
    public bool Training { get; init; }

    /// <summary>Dtype of the hidden states. Default float32.</summary>
    public ScalarType Dtype { get; init; } = ScalarType.Float32;

    /// <summary>Kind of device. Default CPU.</summary>
    public DeviceType Device { get; init; } = DeviceType.CPU;

    /// <summary>Number of the device among those of its kind; -1, the default, where there is but one.</summary>
    public int DeviceIndex { get; init; } = -1;

    /// <summary>Features of the hidden states; null where they were not measured.</summary>
    public ContentFeatures? Content { get; init; }

    /// <summary>
    /// Free memory of the device, in MiB, rounded down to <see cref="MemoryStepMib"/> so that small changes ask the same question; null
    /// where it is unknown.
    /// </summary>
    public long? FreeMemoryMib
    {
        get => freeMemoryMib;
        init => freeMemoryMib = value / MemoryStepMib * MemoryStepMib;
    }

    /// <summary>Throws unless length and batch are at least 1.</summary>
    internal void Validate()
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(Length, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(BatchSize, 1);
    }
}
