using BenchmarkDotNet.Attributes;
using Hybrid.Attention;
using Hybrid.Routing;

namespace Hybrid.Benchmarks;

/// <summary>
/// One decision of a router, over 500 requests that all fit into the cache: what does a policy cost, and does the cache pay for it? The
/// features of the content are part of the request; measuring them is a pass over the hidden states. A hundred iterations of a millisecond
/// or two: on a machine that other work keeps busy the smallest is the one to read.
/// </summary>
[MemoryDiagnoser]
[MinColumn]
[InvocationCount(32)]
[IterationCount(100)]
public class RouterBenchmarks
{
    private const int Requests = 500;

    private static readonly Dictionary<string, HybridAttentionOptions> Policies = new()
    {
        ["length"] = new(),
        ["content"] = new() { Policy = "content" },
        ["adaptive"] = new() { Policy = "adaptive", Adaptive = new() { Lengths = [64, 1024], AttentionMs = [1, 9], MambaMs = [2, 3] } },
        ["rules"] = new()
        {
            Policy = "composite",
            Composite = new()
            {
                Rules = ["training and length > 1024 -> mamba", "batch_size > 16 -> mamba", "novelty >= 0.9 -> attention", "free_memory_mib < 256 -> mamba"],
            },
        },
        ["weighted"] = new()
        {
            Policy = "composite",
            Composite = new() { Mode = CompositeMode.Weighted, ContentWeight = 1, BatchWeight = 1, MemoryWeight = 1, TrainingWeight = 1 },
        },
    };

    private readonly RoutingRequest[] requests = [.. Enumerable.Range(1, Requests).Select(i => new RoutingRequest(8 * i)
    {
        BatchSize = 1 + (i % 4), Content = new ContentFeatures(i % 7 / 7.0, i % 11 / 11.0, 0.5), FreeMemoryMib = 64 * (i % 40),
    })];

    private HybridAttention router = null!;

    [ParamsSource(nameof(Names))]
    public string Policy { get; set; } = "";

    [Params(false, true)]
    public bool Cached { get; set; }

    public static IEnumerable<string> Names => Policies.Keys;

    [GlobalSetup]
    public void Setup()
    {
        var options = Policies[Policy] with { EnableCaching = Cached, AttentionConfig = new AttentionOptions { NumHeads = 2 } };
        router = (HybridAttention)MixerRegistry.Create("hybrid_attention", 16, options);
        Decide();
    }

    [GlobalCleanup]
    public void Cleanup() => router.Dispose();

    [Benchmark(OperationsPerInvoke = Requests)]
    public long Decide()
    {
        var mamba = 0L;
        foreach (ref readonly var request in requests.AsSpan())
        {
            mamba += (long)router.Decide(request).Route;
        }

        return mamba;
    }
}
