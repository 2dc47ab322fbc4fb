using System.Diagnostics.Metrics;
using Hybrid.Attention;
using Hybrid.Kernels;
using Hybrid.Mixers;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using Microsoft.Extensions.Logging;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;
using DeviceType = TorchSharp.DeviceType;

namespace Hybrid.Tests.Routing;

/// <summary>What a router and a Mamba mixer say of their calls: metrics, cache, meter, log.</summary>
public sealed class RoutingMetricsTests : IDisposable
{
    private const long Width = 8;
    private readonly DisposeScope scope = NewDisposeScope();

    public void Dispose() => scope.Dispose();

    [Fact]
    public void RunGivesTheOutputOfForwardAndSaysWhatItDid()
    {
        using var guard = no_grad();
        using var router = Make(new HybridAttentionOptions());
        var x = Values.Normal(1, 2, 7, Width);
        var (output, metrics) = router.Run(x);
        TensorAssert.Identical(router.call(x), output, "output");
        Assert.Equal(("attention", "short_sequence_precision", 7, 2, 10), (metrics.SelectedModule, metrics.SelectionReason, metrics.SequenceLength, metrics.BatchSize, metrics.MambaThreshold));
        Assert.Equal(1 - (0.5 * 7 / 10), metrics.DecisionConfidence);
        Assert.Equal("work O(T^2), depth O(log T)", metrics.Complexity.ToString());
        Assert.InRange(metrics.RouterTimeUs, 1e-3, 1e6);
        Assert.Equal((null, null, null), (metrics.ProcessingTimeMs, metrics.QualityScore, metrics.BranchAgreement));
        Assert.False(metrics.Continued);

        metrics = router.Run(Values.Normal(1, 2, 12, Width)).Metrics;
        Assert.Equal(("mamba", "long_sequence_efficiency_precision_preference"), (metrics.SelectedModule, metrics.SelectionReason));
        Assert.Equal(new ComputeComplexity("O(T)", KernelDispatcher.ReferenceOnly ? "O(sqrt T)" : "O(T)"), metrics.Complexity);
    }

    [Fact]
    public void AContinuedCallReportsTheDecisionOfItsPrefill()
    {
        using var guard = no_grad();
        using var router = Make(new HybridAttentionOptions());
        using var state = router.CreateState(1);
        router.Run(Values.Normal(1, 1, 7, Width), new MixerContext { State = state });
        var metrics = router.Run(Values.Normal(1, 1, 1, Width), new MixerContext { State = state }).Metrics;
        Assert.True(metrics.Continued);
        Assert.Equal((7, 1), (metrics.Decisions[0].Length, metrics.SequenceLength));
        Assert.Equal(1, router.GetMetrics().TotalDecisions);

        var path = Path.GetTempFileName();
        using var loaded = router.CreateState(1);
        try
        {
            state.Save(path);
            loaded.Load(path);
        }
        finally
        {
            File.Delete(path);
        }

        var decision = router.Run(Values.Normal(1, 1, 1, Width), new MixerContext { State = loaded }).Metrics.Decisions[0];
        Assert.Equal((Route.Attention, RoutingReason.Restored), (decision.Route, decision.Reason));
    }

    [Theory]
    [InlineData(CallTiming.Host)]
    [InlineData(CallTiming.Device)]
    public void TimingMeasuresTheBranch(CallTiming timing)
    {
        using var router = Make(new HybridAttentionOptions { Timing = timing });
        Assert.InRange(router.Run(Values.Normal(1, 1, 5, Width)).Metrics.ProcessingTimeMs!.Value, 1e-4, 1e5);
    }

    [Fact]
    public void CollectingNothingCountsNothing()
    {
        using var router = Make(new HybridAttentionOptions { CollectMetrics = false });
        Assert.Equal(7, router.Run(Values.Normal(1, 1, 7, Width)).Metrics.SequenceLength);
        Assert.Equal(new RoutingMetrics(0, 0, 0, 0, null), router.GetMetrics());
    }

    [Fact]
    public void TheCacheIsCountedResetAndEmptiedByANewPolicy()
    {
        using var guard = no_grad();
        using var router = Make(new HybridAttentionOptions());
        Assert.Equal((0, 0.0), (router.GetCacheMetrics().Size, router.GetCacheMetrics().HitRate));
        foreach (var length in new[] { 7, 7, 12, 7 })
        {
            router.call(Values.Normal(1, 1, length, Width));
        }

        Assert.Equal(new DecisionCacheMetrics(2, 2, 2), router.GetCacheMetrics());
        router.ResetMetrics();
        Assert.Equal(new DecisionCacheMetrics(2, 0, 0), router.GetCacheMetrics());
        router.Policy = new LengthThresholdPolicy(5, 100);
        Assert.Equal(default, router.GetCacheMetrics());
        Assert.Equal(Route.Mamba, router.Decide(7).Route);

        using var without = Make(new HybridAttentionOptions { EnableCaching = false });
        without.call(Values.Normal(1, 1, 7, Width));
        Assert.Equal(default, without.GetCacheMetrics());
    }

    [Fact]
    public void ADecisionOfTheRouterAllocatesNothing()
    {
        using var router = Make(new HybridAttentionOptions());
        Decide();
        var before = GC.GetAllocatedBytesForCurrentThread();
        Decide();
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());

        void Decide()
        {
            for (var length = 1; length < 2000; length++)
            {
                router.Count(router.Decide(new RoutingRequest(length)));
            }
        }
    }

    [Fact]
    public void APolicyOfOnesOwnIsOneClass()
    {
        using var guard = no_grad();
        using var router = Make(new HybridAttentionOptions());
        router.Policy = new LongBatchesPolicy();
        Assert.Equal("mamba", router.Run(Values.Normal(1, 3, 4, Width)).Metrics.SelectedModule);
        Assert.Equal("attention", router.Run(Values.Normal(1, 2, 40, Width)).Metrics.SelectedModule);

        RoutingPolicyRegistry.Register("test_long_batches", _ => new LongBatchesPolicy());
        using var named = Make(new HybridAttentionOptions { Policy = "test_long_batches" });
        Assert.IsType<LongBatchesPolicy>(named.Policy);
        Assert.Throws<ArgumentException>(() => RoutingPolicyRegistry.Register("length", _ => new LongBatchesPolicy()));
    }

    [Fact]
    public void FreeMemoryIsAskedOnlyWhereThePolicyReadsIt()
    {
        using var guard = no_grad();
        var asked = 0;
        using var plain = Make(new HybridAttentionOptions());
        plain.MemoryProbe = Probe;
        plain.call(Values.Normal(1, 1, 4, Width));
        Assert.Equal(0, asked);
        using var router = Make(new HybridAttentionOptions { Policy = "composite", Composite = new() { Rules = ["free_memory_mib < 512 -> mamba"] } });
        router.MemoryProbe = Probe;
        Assert.Equal("mamba", router.Run(Values.Normal(1, 1, 4, Width)).Metrics.SelectedModule);
        Assert.Equal(1, asked);
        Assert.InRange(FreeMemory.OfDevice(CPU)!.Value, 1, 1L << 30);

        long? Probe(Device device)
        {
            asked++;
            return 500;
        }
    }

    [Fact]
    public void AProbeScoresTheOutput()
    {
        using var guard = no_grad();
        using var router = Make(new HybridAttentionOptions());
        using var head = nn.Linear(Width, 6);
        var x = Values.Normal(1, 2, 5, Width);
        var targets = tensor(new long[] { 0, 1, 2, 3, 4, -100, 5, -100, 1, 0 }).view(2, 5);
        var logits = head.call(router.call(x)).flatten(0, 1);
        var asked = targets.view(-1).ne(-100);

        router.QualityProbe = new NegativeLogLikelihoodProbe(head, targets);
        var picked = logits.log_softmax(-1).gather(1, targets.view(-1, 1).clamp_min(0)).squeeze(1).masked_select(asked);
        Assert.Equal(-picked.mean().ToDouble(), router.Run(x).Metrics.QualityScore!.Value, 1e-6);

        router.QualityProbe = new RecallAccuracyProbe(head, targets);
        var right = logits.argmax(-1).eq(targets.view(-1)).sum().ToDouble();
        Assert.Equal(right / 8, router.Run(x).Metrics.QualityScore!.Value, 1e-12);

        router.QualityProbe = new RecallAccuracyProbe(head, logits.argmax(-1).view(2, 5));
        Assert.Equal(1, router.Run(x).Metrics.QualityScore);
        var error = Assert.Throws<ArgumentException>(() => router.Run(Values.Normal(1, 2, 4, Width)));
        Assert.Contains("RecallAccuracyProbe: the targets must be [2, 4], one an output; got [2, 5].", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AShareOfTheCallsComparesTheBranches()
    {
        using var guard = no_grad();
        using var router = Make(new HybridAttentionOptions { ShadowRate = 0.25 });
        router.eval();
        var x = Values.Normal(1, 2, 6, Width);
        var agreements = Enumerable.Range(0, 12).Select(_ => router.Run(x).Metrics.BranchAgreement).ToArray();
        Assert.Equal(3, agreements.Count(agreement => agreement is not null));
        var (a, b) = (router.Branch(Route.Attention).call(x), router.Branch(Route.Mamba).call(x));
        var cosine = (a * b).sum(dim: -1) / (a.square().sum(dim: -1).sqrt() * b.square().sum(dim: -1).sqrt());
        Assert.Equal(cosine.mean().ToDouble(), agreements.First(agreement => agreement is not null)!.Value, 1e-5);
        Assert.Equal(12, router.GetMetrics().AttentionCount);

        router.train();
        Assert.All(Enumerable.Range(0, 8), _ => Assert.Null(router.Run(x).Metrics.BranchAgreement));
    }

    [Fact]
    public void TheMeterTellsWhatHappened()
    {
        using var guard = no_grad();
        var seen = new List<(string Instrument, double Value, string Tags)>();
        using var listener = new MeterListener();
        listener.InstrumentPublished = (instrument, l) =>
        {
            if (instrument.Meter.Name == "Hybrid")
            {
                l.EnableMeasurementEvents(instrument);
            }
        };
        var thread = Environment.CurrentManagedThreadId;
        listener.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Add(instrument, value, tags));
        listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Add(instrument, value, tags));
        listener.Start();

        using var router = Make(new HybridAttentionOptions { Timing = CallTiming.Host, ShadowRate = 1, OnThresholdCrossing = ThresholdCrossing.Reprefill });
        router.eval();
        using var state = router.CreateState(1);
        router.Run(Values.Normal(1, 1, 7, Width), new MixerContext { State = state });
        router.Run(Values.Normal(1, 1, 5, Width), new MixerContext { State = state });

        Assert.Contains(("hybrid.router.decisions", 1, "module=attention,reason=short_sequence_precision"), seen);
        Assert.Contains(("hybrid.router.sequence_length", 7, ""), seen);
        Assert.Contains(("hybrid.router.crossings", 1, "module=mamba"), seen);
        Assert.Equal(["module=attention", "module=mamba"], seen.Where(entry => entry.Instrument == "hybrid.router.processing_time").Select(entry => entry.Tags));
        Assert.Equal(2, seen.Count(entry => entry.Instrument == "hybrid.router.decision_time" && entry.Value > 0));
        Assert.Single(seen, entry => entry.Instrument == "hybrid.router.branch_agreement");

        // Other tests route at the same time, on other threads.
        void Add(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            if (Environment.CurrentManagedThreadId == thread)
            {
                seen.Add((instrument.Name, value, string.Join(',', tags.ToArray().Select(tag => $"{tag.Key}={tag.Value}"))));
            }
        }
    }

    [Fact]
    public void DecisionsAreLoggedWhereAskedFor()
    {
        using var guard = no_grad();
        var log = new ListLogger();
        using var quiet = Make(new HybridAttentionOptions());
        quiet.Logger = log;
        quiet.call(Values.Normal(1, 1, 7, Width));
        Assert.Empty(log.Entries);
        using var router = Make(new HybridAttentionOptions { LogDecisions = true });
        router.Logger = log;
        router.call(Values.Normal(1, 1, 7, Width));
        Assert.Equal(
            [(LogLevel.Information, "length: attention for 7 tokens, because short_sequence_precision (threshold 10, confidence 0.650)")], log.Entries);
    }

    [Theory]
    [InlineData(ScanType.Linear, true, ScanType.Linear, "O(T)", "SelectiveScan.Reference")]
    [InlineData(ScanType.Associative, true, ScanType.Associative, "O(sqrt T)", "SelectiveScan.Reference")]
    [InlineData(ScanType.Auto, false, ScanType.Associative, "O(sqrt T)", "SelectiveScan.Reference")]
    [InlineData(ScanType.Fused, true, ScanType.Fused, "O(T)", "SelectiveScan.Cpu")]
    [InlineData(ScanType.Auto, true, ScanType.Fused, "O(T)", "SelectiveScan.Cpu")]
    public void AMambaMixerSaysHowItScannedAndAllFormsAgree(ScanType asked, bool fusedKernels, ScanType ran, string depth, string kernel)
    {
        if (KernelDispatcher.ReferenceOnly && ran == ScanType.Fused)
        {
            (ran, depth, kernel) = (ScanType.Associative, "O(sqrt T)", "SelectiveScan.Reference");
        }

        manual_seed(3);
        using var mixer = new MambaMixer(Width, new MambaOptions { ScanType = asked, UseFusedKernels = fusedKernels, DState = 5 });
        manual_seed(3);
        using var plain = new MambaMixer(Width, new MambaOptions { DState = 5 });
        var x = Values.Normal(1, 2, 37, Width).requires_grad_(true);
        var (output, metrics) = mixer.Run(x);
        Assert.Equal(new ScanMetrics(ran, new ComputeComplexity("O(T)", depth), kernel, 37, 2, 5, DeviceType.CPU), metrics);
        var other = x.detach().clone().requires_grad_(true);
        var expected = plain.call(other);
        TensorAssert.Close(expected, output, 1e-5, "output");
        output.square().sum().backward();
        expected.square().sum().backward();
        TensorAssert.Close(other.grad!, x.grad!, 1e-5, "gradient");

        using var state = mixer.CreateState(2);
        using var guard = no_grad();
        TensorAssert.Close(
            expected,
            cat([mixer.Run(x.narrow(1, 0, 20), new MixerContext { State = state }).Output, mixer.Run(x.narrow(1, 20, 17), new MixerContext { State = state }).Output], 1),
            1e-5,
            "in two pieces");
    }

    [Fact]
    public void AFusedScanWithoutFusedKernelsIsRefused() => Assert.StartsWith(
        "MambaOptions.UseFusedKernels must be true with the scan type Fused; got false.",
        Assert.Throws<ArgumentException>(() => new MambaMixer(Width, new MambaOptions { ScanType = ScanType.Fused, UseFusedKernels = false })).Message,
        StringComparison.Ordinal);

    /// <summary>Attention below ten tokens, Mamba from there on, without norms and residuals.</summary>
    private static HybridAttention Make(HybridAttentionOptions options)
    {
        manual_seed(1);
        return new HybridAttention(Width, options with
        {
            MambaThreshold = 10, ResidualBranches = false, AttentionConfig = new AttentionOptions { NumHeads = 2 },
        });
    }

    private sealed class LongBatchesPolicy() : RoutingPolicy("long_batches")
    {
        public override RoutingDecision Decide(in RoutingRequest request) =>
            new(request.BatchSize > 2 ? Route.Mamba : Route.Attention, RoutingReason.Rule, "batch", 1, request.Length, 0);
    }
}
