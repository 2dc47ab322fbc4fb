using BenchmarkDotNet.Attributes;
using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>How much faster is the convolution with its SiLU as one kernel than as shifted copies that are added up?</summary>
public class CausalConv1dBenchmarks : KernelBenchmarks
{
    private const long Channels = 1536;
    private const long Taps = 4;

    [Params(2048, 2047)]
    public long Time { get; set; }

    protected override Tensor[] MakeInputs() => [randn(1, Time, Channels), randn(Channels, Taps), randn(Channels)];

    protected override Tensor MakeUpstream() => randn(1, Time, Channels);

    protected override Tensor Reference() => Convolve(fused: false);

    protected override Tensor Fused() => Convolve(fused: true);

    private Tensor Convolve(bool fused) => CausalConv1d.Apply(Inputs[0], Inputs[1], Inputs[2], Activation.Silu, fused: fused).Y;
}
