using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// Does a token cost the same in a very long sequence? One of 65,536 tokens against the same memory as 32 sequences of 2,048, E = 1536, N = 16.
/// </summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class LongScanBenchmarks
{
    private const long Time = 65536;
    private const long ShortTime = 2048;
    private const long Channels = 1536;
    private const long StateSize = 16;

    private Tensor[] whole = [];
    private Tensor[][] pieces = [];

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        using var scope = NewDisposeScope();
        Tensor[] made =
        [
            randn(1, Time, Channels), randn(1, Time, Channels), -randn(Channels, StateSize).exp(), randn(1, Time, StateSize), randn(1, Time, StateSize),
            randn(Channels), randn(1, Time, Channels), randn(Channels),
        ];
        whole = [.. made.Select(Leaf)];
        pieces = [.. Enumerable.Range(0, (int)(Time / ShortTime)).Select(Piece)];

        Tensor[] Piece(int index) => [.. made.Select(tensor => Leaf(tensor.Dimensions == 3 ? tensor.narrow(1, index * ShortTime, ShortTime) : tensor))];

        static Tensor Leaf(Tensor values) => values.detach().requires_grad_(true).DetachFromDisposeScope();
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        foreach (var tensor in pieces.Append(whole).SelectMany(tensors => tensors))
        {
            tensor.Dispose();
        }
    }

    [BenchmarkCategory("forward"), Benchmark(Baseline = true)]
    public void ShortForward() => Array.ForEach(pieces, Forward);

    [BenchmarkCategory("forward"), Benchmark]
    public void LongForward() => Forward(whole);

    [BenchmarkCategory("forward and backward"), Benchmark(Baseline = true)]
    public void ShortForwardAndBackward() => Array.ForEach(pieces, ForwardAndBackward);

    [BenchmarkCategory("forward and backward"), Benchmark]
    public void LongForwardAndBackward() => ForwardAndBackward(whole);

    private static void Forward(Tensor[] x)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        Scan(x);
    }

    private static void ForwardAndBackward(Tensor[] x)
    {
        using var scope = NewDisposeScope();
        autograd.grad([Scan(x).sum()], x);
    }

    private static Tensor Scan(Tensor[] x) => SelectiveScan.Apply(
        x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], deltaSoftplus: true, stateGradient: false, scanType: ScanType.Fused).Y;
}
