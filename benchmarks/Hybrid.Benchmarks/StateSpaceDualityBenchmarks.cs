using BenchmarkDotNet.Attributes;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster is the SIMD kernel of state-space duality than the same from tensor operations? At the size of a mamba2-130m layer: 24 heads
/// of 64, with its 128 states and with 64, and at a ragged length.
/// </summary>
public class StateSpaceDualityBenchmarks : KernelBenchmarks
{
    private const long Heads = 24;
    private const long HeadWidth = 64;

    [Params(2048, 2047)]
    public long Time { get; set; }

    [Params(64, 128)]
    public long StateSize { get; set; }

    protected override Tensor[] MakeInputs() =>
    [
        randn(1, Time, Heads, HeadWidth), randn(1, Time, Heads), -randn(Heads).exp(), randn(1, Time, 1, StateSize), randn(1, Time, 1, StateSize),
        randn(Heads), randn(Heads),
    ];

    protected override Tensor Reference() => WithoutKernels(Fused);

    protected override Tensor Fused() => StateSpaceDuality.Apply(
        Inputs[0], Inputs[1], Inputs[2], Inputs[3], Inputs[4], Inputs[5], dtBias: Inputs[6], dtSoftplus: true, stateGradient: false).Y;
}
