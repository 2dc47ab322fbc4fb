using BenchmarkDotNet.Attributes;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>What one call to libtorch costs, and how fast its matrix product is: the floor under everything else.</summary>
public class TensorBenchmarks
{
    private const long Size = 2048;

    private Tensor small = null!;
    private Tensor left = null!;
    private Tensor right = null!;
    private IDisposable guard = null!;

    [GlobalSetup]
    public void Setup()
    {
        guard = no_grad();
        small = randn(4);
        (left, right) = (randn(Size, Size), randn(Size, Size));
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        guard.Dispose();
        small.Dispose();
        left.Dispose();
        right.Dispose();
    }

    /// <summary>An addition of four numbers: call overhead only.</summary>
    [Benchmark]
    public void TinyAdd() => small.add(small).Dispose();

    /// <summary>2048 x 2048 times 2048 x 2048 in float32: 17.2 GFLOP.</summary>
    [Benchmark]
    public void MatrixProduct() => left.mm(right).Dispose();
}
