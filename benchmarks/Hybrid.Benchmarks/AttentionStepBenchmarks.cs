using BenchmarkDotNet.Attributes;
using Hybrid.Attention;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster do a few new tokens attend to a cache in one pass over it than by the fused operation of the backend? 8 query heads of 64
/// channels, which share 2 key heads or have one each.
/// </summary>
public class AttentionStepBenchmarks
{
    private const long Heads = 8;
    private const long HeadWidth = 64;

    private readonly AttentionOptions options = new();
    private Tensor query = null!;
    private Tensor key = null!;
    private Tensor value = null!;

    [Params(128, 1024, 4096)]
    public long Keys { get; set; }

    [Params(2, 8)]
    public long KeyHeads { get; set; }

    [Params(1, 4)]
    public long Tokens { get; set; }

    [Params(ScalarType.Float32, ScalarType.BFloat16)]
    public ScalarType Type { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(3);
        query = randn(1, Heads, Tokens, HeadWidth).to_type(Type);
        key = randn(1, KeyHeads, Keys, HeadWidth).to_type(Type);
        value = randn(1, KeyHeads, Keys, HeadWidth).to_type(Type);
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        query.Dispose();
        key.Dispose();
        value.Dispose();
    }

    [Benchmark(Baseline = true)]
    public void Composed()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        ScaledDotProduct.Composed(query, key, value, Visible(), options, dropout: 0);
    }

    [Benchmark]
    public void OnePass()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        ScaledDotProduct.Apply(query, key, value, Visible(), options, dropout: 0);
    }

    private KeyVisibility Visible() => new([Keys - Tokens], Tokens, null, null, CPU);
}
