using BenchmarkDotNet.Attributes;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster is the SIMD kernel of the gated delta rule than the same from tensor operations? With heads of 64 as at width 256, and with heads
/// of 128 as in Qwen3-Next, and at a ragged length.
/// </summary>
public class GatedDeltaBenchmarks : KernelBenchmarks
{
    private const long Channels = 512;

    [Params(2048, 2047)]
    public long Time { get; set; }

    [Params(64, 128)]
    public long HeadWidth { get; set; }

    private long Heads => Channels / HeadWidth;

    protected override Tensor[] MakeInputs() =>
    [
        randn(1, Time, Heads, HeadWidth), randn(1, Time, Heads, HeadWidth), randn(1, Time, Heads, HeadWidth), rand(1, Time, Heads), -rand(1, Time, Heads),
    ];

    protected override Tensor Reference() => WithoutKernels(Fused);

    protected override Tensor Fused() =>
        GatedDelta.Apply(Inputs[0], Inputs[1], Inputs[2], Inputs[3], Inputs[4], normalise: true, stateGradient: false).O;
}
