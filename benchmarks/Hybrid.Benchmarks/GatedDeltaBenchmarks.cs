using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster is the SIMD kernel of the gated delta rule than the same from tensor operations? With heads of 64 as at width 256, and with heads
/// of 128 as in Qwen3-Next, and at a ragged length.
/// </summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class GatedDeltaBenchmarks
{
    private const long Channels = 512;

    private Tensor[] inputs = [];

    [Params(2048, 2047)]
    public long Time { get; set; }

    [Params(64, 128)]
    public long HeadWidth { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        using var scope = NewDisposeScope();
        var heads = Channels / HeadWidth;
        Tensor[] made =
        [
            randn(1, Time, heads, HeadWidth), randn(1, Time, heads, HeadWidth), randn(1, Time, heads, HeadWidth), rand(1, Time, heads), -rand(1, Time, heads),
        ];
        inputs = [.. made.Select(tensor => tensor.requires_grad_(true).DetachFromDisposeScope())];
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        KernelDispatcher.ReferenceOnly = false;
        foreach (var input in inputs)
        {
            input.Dispose();
        }
    }

    [BenchmarkCategory("forward"), Benchmark(Baseline = true)]
    public void ReferenceForward() => Forward(referenceOnly: true);

    [BenchmarkCategory("forward"), Benchmark]
    public void KernelForward() => Forward(referenceOnly: false);

    [BenchmarkCategory("forward and backward"), Benchmark(Baseline = true)]
    public void ReferenceForwardAndBackward() => ForwardAndBackward(referenceOnly: true);

    [BenchmarkCategory("forward and backward"), Benchmark]
    public void KernelForwardAndBackward() => ForwardAndBackward(referenceOnly: false);

    private void Forward(bool referenceOnly)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        Apply(referenceOnly);
    }

    private void ForwardAndBackward(bool referenceOnly)
    {
        using var scope = NewDisposeScope();
        Apply(referenceOnly).sum().backward();
    }

    private Tensor Apply(bool referenceOnly)
    {
        KernelDispatcher.ReferenceOnly = referenceOnly;
        return GatedDelta.Apply(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], normalise: true, stateGradient: false).O;
    }
}
