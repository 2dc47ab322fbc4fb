using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.DeviceBenchmarks;

/// <summary>Where and in what precision to measure.</summary>
/// <param name="Device">The device.</param>
/// <param name="Precision">Float32, or the half precision of matrices and activations.</param>
/// <param name="Quick">Small sizes and few repeats.</param>
internal sealed record Settings(Device Device, ScalarType Precision, bool Quick)
{
    /// <summary>Timed calls of which the median counts.</summary>
    public int Repeats => Quick ? 3 : 20;

    /// <summary>Least time of the calls before those.</summary>
    public TimeSpan WarmUp => TimeSpan.FromSeconds(Quick ? 0.3 : 2);

    /// <summary>A size: the one to measure, or a small one.</summary>
    public long Size(long full, long small) => Quick ? small : full;

    /// <summary>Random normal numbers.</summary>
    public Tensor Random(params long[] shape) => Floats(shape).to_type(Precision);

    /// <summary>The same in float32, for what mixed precision leaves in it.</summary>
    public Tensor Floats(params long[] shape) => randn(shape, device: Device);
}

/// <summary>A row of the table.</summary>
/// <param name="What">What ran, and its sizes.</param>
/// <param name="Settings">For the precision.</param>
/// <param name="Milliseconds">Median time of a call.</param>
/// <param name="Figure">The figure that it is measured for, with its unit.</param>
/// <param name="PeakMib">Most memory that the process has held so far.</param>
internal sealed record Row(string What, Settings Settings, double Milliseconds, string Figure, double? PeakMib)
{
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"| {What} | {Settings.Precision.ToString().ToLowerInvariant()} | {Milliseconds:0.000} ms | {Figure} | {(PeakMib is { } mib ? $"{mib:0} MiB" : "-")} |");
}
