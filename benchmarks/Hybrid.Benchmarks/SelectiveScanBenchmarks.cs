using BenchmarkDotNet.Attributes;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster is the fused scan than the same from tensor operations? At the size of a mamba-130m layer, N = 16, and at a ragged one.
/// </summary>
public class SelectiveScanBenchmarks : KernelBenchmarks
{
    private const long Channels = 1536;
    private const long StateSize = 16;

    [Params(512, 2048, 2047)]
    public long Time { get; set; }

    protected override Tensor[] MakeInputs() =>
    [
        randn(1, Time, Channels), randn(1, Time, Channels), -randn(Channels, StateSize).exp(), randn(1, Time, StateSize),
        randn(1, Time, StateSize), randn(Channels), randn(1, Time, Channels), randn(Channels),
    ];

    protected override Tensor Reference() => Scan(ScanType.Associative);

    protected override Tensor Fused() => Scan(ScanType.Fused);

    private Tensor Scan(ScanType form) => SelectiveScan.Apply(
        Inputs[0], Inputs[1], Inputs[2], Inputs[3], Inputs[4], Inputs[5], Inputs[6], Inputs[7], deltaSoftplus: true, stateGradient: false, scanType: form).Y;
}
