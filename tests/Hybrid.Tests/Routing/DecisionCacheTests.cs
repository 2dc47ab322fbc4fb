using Hybrid.Routing;
using Xunit;
using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace Hybrid.Tests.Routing;

public class DecisionCacheTests
{
    public static TheoryData<string> Policies => [.. SamplePolicies.All.Keys];

    [Theory]
    [MemberData(nameof(Policies))]
    public void ACachedDecisionIsThePolicysOwnForEveryLength(string name)
    {
        var policy = SamplePolicies.All[name];
        var cache = new DecisionCache();

        // 5000 lengths pass through a thousand places, so that some answers come from the cache and some were dropped and came back.
        foreach (var round in Enumerable.Range(0, 2))
        {
            for (var length = 1L; length <= 5000; length++)
            {
                var request = SamplePolicies.Request(length, round == 1);
                Assert.Equal(policy.Decide(request), cache.Decide(policy, request));
                Assert.Equal(policy.Decide(request), cache.Decide(policy, request));
            }
        }

        Assert.Equal(new DecisionCacheMetrics(1000, 10_000, 10_000), cache.GetMetrics());
        Assert.Equal(0.5, cache.GetMetrics().HitRate);
    }

    [Fact]
    public void TheLeastRecentlyUsedDecisionGivesWay()
    {
        var policy = new CountingPolicy();
        var cache = new DecisionCache(3);
        Ask(1, 2, 3, 1, 4);
        Assert.Equal([1, 2, 3, 4], policy.Asked);
        Ask(3, 1, 4);
        Assert.Equal(4, policy.Asked.Count);
        Ask(2, 1, 4, 3);
        Assert.Equal([1, 2, 3, 4, 2, 3], policy.Asked);
        Assert.Equal(3, cache.GetMetrics().Size);

        void Ask(params long[] lengths)
        {
            foreach (var length in lengths)
            {
                Assert.Equal(length, cache.Decide(policy, new RoutingRequest(length)).Length);
            }
        }
    }

    [Fact]
    public void ACacheOfOneWorks()
    {
        var policy = new CountingPolicy();
        var cache = new DecisionCache(1);
        foreach (var length in new long[] { 5, 5, 6, 5 })
        {
            cache.Decide(policy, new RoutingRequest(length));
        }

        Assert.Equal([5, 6, 5], policy.Asked);
        Assert.Throws<ArgumentOutOfRangeException>(() => new DecisionCache(0));
    }

    [Fact]
    public void EverythingThatAPolicyReadsIsPartOfTheKey()
    {
        var policy = new CountingPolicy();
        var cache = new DecisionCache();
        var request = new RoutingRequest(7) { BatchSize = 2, Content = new ContentFeatures(0.5, 0.5, 0.5), FreeMemoryMib = 640 };
        RoutingRequest[] others =
        [
            request,
            request with { Length = 8 },
            request with { BatchSize = 3 },
            request with { Training = true },
            request with { Dtype = ScalarType.BFloat16 },
            request with { Device = DeviceType.CUDA },
            request with { DeviceIndex = 1 },
            request with { Content = null },
            request with { Content = new ContentFeatures(0.25, 0.5, 0.5) },
            request with { Content = new ContentFeatures(0.5, 0.25, 0.5) },
            request with { Content = new ContentFeatures(0.5, 0.5, 0.25) },
            request with { FreeMemoryMib = 704 },
            request with { FreeMemoryMib = null },
        ];
        foreach (var other in others.Concat(others))
        {
            cache.Decide(policy, other);
        }

        Assert.Equal(others.Length, policy.Asked.Count);

        // Another version and another id of a policy ask anew; free memory within a step does not.
        policy.Generation++;
        cache.Decide(policy, request);
        cache.Decide(policy, request with { FreeMemoryMib = 650 });
        Assert.Equal(others.Length + 1, policy.Asked.Count);
        cache.Decide(new CountingPolicy("another"), request);
        Assert.Equal(new DecisionCacheMetrics(others.Length + 2, others.Length + 1, others.Length + 2), cache.GetMetrics());
    }

    [Fact]
    public void ClearingForgetsDecisionsAndCounts()
    {
        var policy = new CountingPolicy();
        var cache = new DecisionCache(2);
        Assert.Equal(0, cache.GetMetrics().HitRate);
        foreach (var length in new long[] { 1, 2, 3, 3 })
        {
            cache.Decide(policy, new RoutingRequest(length));
        }

        cache.ResetMetrics();
        Assert.Equal(new DecisionCacheMetrics(2, 0, 0), cache.GetMetrics());
        cache.Clear();
        Assert.Equal(new DecisionCacheMetrics(0, 0, 0), cache.GetMetrics());
        foreach (var length in new long[] { 3, 2, 1, 2 })
        {
            cache.Decide(policy, new RoutingRequest(length));
        }

        Assert.Equal([1, 2, 3, 3, 2, 1], policy.Asked);
    }

    [Fact]
    public void AFailureOfThePolicyIsNotKept()
    {
        var cache = new DecisionCache();
        var policy = new LengthThresholdPolicy(10, 10);
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.Decide(policy, new RoutingRequest(0)));
        Assert.Equal(0, cache.GetMetrics().Size);
    }

    [Fact]
    public async Task EightThreadsGetTheirDecisionsAndLoseNoCount()
    {
        const int calls = 20_000;
        var policy = new LengthThresholdPolicy(100, 1000);
        var cache = new DecisionCache(64);
        await Task.WhenAll( Enumerable.Range(0, 8).Select(worker => Task.Factory.StartNew(
            () =>
            {
                var random = new Random(worker);
                for (var i = 0; i < calls; i++)
                {
                    // Twice as many lengths as places: hits, misses and evictions all meet.
                    var length = random.Next(1, 129);
                    var decision = cache.Decide(policy, new RoutingRequest(length));
                    Assert.Equal((length, length >= 100), (decision.Length, decision.Route == Route.Mamba));
                }
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default)));
        var metrics = cache.GetMetrics();
        Assert.Equal(64, metrics.Size);
        Assert.Equal(8 * calls, metrics.Hits + metrics.Misses);
        Assert.InRange(metrics.HitRate, 0.4, 0.6);
    }

    [Theory]
    [MemberData(nameof(Policies))]
    public void AWarmDecisionAllocatesNothing(string name)
    {
        var policy = SamplePolicies.All[name];
        var cache = new DecisionCache(100);
        var requests = Enumerable.Range(1, 150).Select(i => SamplePolicies.Request(i * 20, false)).ToArray();
        Run(1000);

        var before = GC.GetAllocatedBytesForCurrentThread();
        Run(1000);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());

        // Half of the requests hit, the others push a decision out: both paths are warm.
        void Run(int rounds)
        {
            for (var round = 0; round < rounds; round++)
            {
                for (var i = 0; i < 50; i++)
                {
                    cache.Decide(policy, requests[(round + i) % requests.Length]);
                    policy.Decide(requests[i]);
                }
            }
        }
    }

    /// <summary>Remembers what it was asked.</summary>
    private sealed class CountingPolicy(string id = "counting") : RoutingPolicy(id)
    {
        public List<long> Asked { get; } = [];

        public int Generation { get; set; } = 1;

        public override int Version => Generation;

        public override RoutingDecision Decide(in RoutingRequest request)
        {
            Asked.Add(request.Length);
            return new RoutingDecision(Route.Attention, RoutingReason.Rule, "counted", 1, request.Length, 0);
        }
    }
}
