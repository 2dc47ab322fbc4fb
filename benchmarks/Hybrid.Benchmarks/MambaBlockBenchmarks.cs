using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Mixers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// What does a Mamba block of mamba-130m cost over its four matrix products alone, which no kernel of this library touches? And what does a
/// long sequence cost per token?
/// </summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class MambaBlockBenchmarks
{
    private const long Width = 768;

    // Input, x and B C dt, step sizes, output: rows and columns of the weights.
    private static readonly (long Out, long In)[] Shapes = [(3072, 768), (80, 1536), (1536, 48), (768, 1536)];

    private SequenceMixer mixer = null!;
    private Linear[] products = [];
    private Tensor[] inputs = [];
    private Tensor[] upstream = [];

    [Params(2048, 8192)]
    public long Time { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(2);
        mixer = Block();
        products = [.. Shapes.Select(shape => nn.Linear(shape.In, shape.Out, hasBias: false))];
        inputs = [.. Shapes.Select(shape => randn(1, Time, shape.In).requires_grad_(true))];
        upstream = [.. Shapes.Select(shape => randn(1, Time, shape.Out))];
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        mixer.Dispose();
        foreach (var owned in products.Cast<IDisposable>().Concat(inputs).Concat(upstream))
        {
            owned.Dispose();
        }
    }

    [BenchmarkCategory("forward"), Benchmark(Baseline = true)]
    public void ProductsForward()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        for (var i = 0; i < products.Length; i++)
        {
            products[i].call(inputs[i]);
        }
    }

    [BenchmarkCategory("forward"), Benchmark]
    public void BlockForward()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        mixer.forward(inputs[0], MixerContext.None);
    }

    [BenchmarkCategory("forward and backward"), Benchmark(Baseline = true)]
    public void ProductsForwardAndBackward()
    {
        using var scope = NewDisposeScope();
        for (var i = 0; i < products.Length; i++)
        {
            products[i].call(inputs[i]).backward([upstream[i]]);
        }
    }

    [BenchmarkCategory("forward and backward"), Benchmark]
    public void BlockForwardAndBackward()
    {
        using var scope = NewDisposeScope();
        mixer.forward(inputs[0], MixerContext.None).backward([upstream[^1]]);
    }

    private static MambaMixer Block() => new(Width);
}
