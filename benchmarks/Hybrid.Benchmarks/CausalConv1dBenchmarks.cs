using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>How much faster is the convolution with its SiLU as one kernel than as shifted copies that are added up?</summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class CausalConv1dBenchmarks
{
    private const long Channels = 1536;
    private const long Taps = 4;

    private Tensor[] inputs = [];
    private Tensor upstream = null!;

    [Params(2048, 2047)]
    public long Time { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(3);
        inputs = [.. new[] { randn(1, Time, Channels), randn(Channels, Taps), randn(Channels) }.Select(tensor => tensor.requires_grad_(true))];
        upstream = randn(1, Time, Channels);
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        foreach (var input in inputs)
        {
            input.Dispose();
        }

        upstream.Dispose();
    }

    [BenchmarkCategory("forward"), Benchmark(Baseline = true)]
    public void ReferenceForward() => Forward(false);

    [BenchmarkCategory("forward"), Benchmark]
    public void FusedForward() => Forward(true);

    [BenchmarkCategory("forward and backward"), Benchmark(Baseline = true)]
    public void ReferenceForwardAndBackward() => ForwardAndBackward(false);

    [BenchmarkCategory("forward and backward"), Benchmark]
    public void FusedForwardAndBackward() => ForwardAndBackward(true);

    private void Forward(bool fused)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        Convolve(fused);
    }

    private void ForwardAndBackward(bool fused)
    {
        using var scope = NewDisposeScope();
        Convolve(fused).backward([upstream]);
    }

    private Tensor Convolve(bool fused) => CausalConv1d.Apply(inputs[0], inputs[1], inputs[2], Activation.Silu, fused: fused).Y;
}
