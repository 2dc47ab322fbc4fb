using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster is the fused scan than the same from tensor operations? At the size of a mamba-130m layer, N = 16, and at a ragged one.
/// </summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class SelectiveScanBenchmarks
{
    private const long Channels = 1536;
    private const long StateSize = 16;

    private Tensor[] inputs = [];

    [Params(512, 2048, 2047)]
    public long Time { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        using var scope = NewDisposeScope();
        Tensor[] made =
        [
            randn(1, Time, Channels), randn(1, Time, Channels), -randn(Channels, StateSize).exp(), randn(1, Time, StateSize),
            randn(1, Time, StateSize), randn(Channels), randn(1, Time, Channels), randn(Channels),
        ];
        inputs = [.. made.Select(tensor => tensor.requires_grad_(true).DetachFromDisposeScope())];
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        foreach (var input in inputs)
        {
            input.Dispose();
        }
    }

    [BenchmarkCategory("forward"), Benchmark(Baseline = true)]
    public void ReferenceForward() => Forward(ScanType.Associative);

    [BenchmarkCategory("forward"), Benchmark]
    public void FusedForward() => Forward(ScanType.Fused);

    [BenchmarkCategory("forward and backward"), Benchmark(Baseline = true)]
    public void ReferenceForwardAndBackward() => ForwardAndBackward(ScanType.Associative);

    [BenchmarkCategory("forward and backward"), Benchmark]
    public void FusedForwardAndBackward() => ForwardAndBackward(ScanType.Fused);

    private void Forward(ScanType form)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        Scan(form);
    }

    private void ForwardAndBackward(ScanType form)
    {
        using var scope = NewDisposeScope();
        Scan(form).sum().backward();
    }

    private Tensor Scan(ScanType form) => SelectiveScan.Apply(
        inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5], inputs[6], inputs[7], deltaSoftplus: true, stateGradient: false, scanType: form).Y;
}
