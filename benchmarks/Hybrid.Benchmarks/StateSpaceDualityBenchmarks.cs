using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster is the SIMD kernel of state-space duality than the same from tensor operations? At the size of a mamba2-130m layer: 24 heads
/// of 64, with its 128 states and with 64, and at a ragged length.
/// </summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class StateSpaceDualityBenchmarks
{
    private const long Heads = 24;
    private const long HeadWidth = 64;

    private Tensor[] inputs = [];

    [Params(2048, 2047)]
    public long Time { get; set; }

    [Params(64, 128)]
    public long StateSize { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        using var scope = NewDisposeScope();
        Tensor[] made =
        [
            randn(1, Time, Heads, HeadWidth), randn(1, Time, Heads), -randn(Heads).exp(), randn(1, Time, 1, StateSize), randn(1, Time, 1, StateSize),
            randn(Heads), randn(Heads),
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
        Recur(referenceOnly);
    }

    private void ForwardAndBackward(bool referenceOnly)
    {
        using var scope = NewDisposeScope();
        Recur(referenceOnly).sum().backward();
    }

    private Tensor Recur(bool referenceOnly)
    {
        KernelDispatcher.ReferenceOnly = referenceOnly;
        return StateSpaceDuality.Apply(
            inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5], dtBias: inputs[6], dtSoftplus: true, stateGradient: false).Y;
    }
}
