using BenchmarkDotNet.Attributes;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>How much faster are rotary positions on 16 heads of 64 channels as one pass than as tensor operations?</summary>
public class RotationBenchmarks : KernelBenchmarks
{
    private const long Heads = 16;
    private const long HeadWidth = 64;

    [Params(128, 2047)]
    public long Time { get; set; }

    private (Tensor Cos, Tensor Sin) Angles => (Constants[0], Constants[1]);

    protected override Tensor[] MakeInputs() => [randn(1, Heads, Time, HeadWidth)];

    protected override Tensor[] MakeConstants() => [rand(1, 1, Time, HeadWidth / 2), rand(1, 1, Time, HeadWidth / 2)];

    protected override Tensor MakeUpstream() => randn(1, Heads, Time, HeadWidth);

    protected override Tensor Reference() => Rotation.Reference(Inputs[0], Angles);

    protected override Tensor Fused() => Rotation.Apply(Inputs[0], Angles);
}
