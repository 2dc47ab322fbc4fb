using Hybrid.Attention;
using Hybrid.Layers;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class HybridAttentionTests
{
    private const long Width = 8;

    [Theory]
    [InlineData(9, Route.Attention)]
    [InlineData(10, Route.Mamba)]
    public void TheThresholdDividesTheBranches(long length, Route route)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var router = Bare();
        var x = Values.Normal(1, 2, length, Width);
        var y = router.call(x);
        TensorAssert.Identical(router.Branch(route).call(x), y, $"{route}");
        Assert.Equal(route, router.GetMetrics().Last!.Value.Route);
        var other = router.Branch(route == Route.Mamba ? Route.Attention : Route.Mamba).call(x);
        Assert.True(TensorAssert.RelativeError(y, other) > 0.1, "the branches must differ, or the test says nothing");
    }

    [Theory]
    [InlineData(Route.Attention)]
    [InlineData(Route.Mamba)]
    public void BothBranchesAreWrappedAlike(Route route)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(2);
        using var router = new HybridAttention(
            Width, new HybridAttentionOptions { AttentionConfig = new() { NumHeads = 2 }, IntermediateSize = 16, LayerNormEps = 1e-4 });
        router.eval();
        router.Override = route;
        var part = route == Route.Mamba ? "mamba." : "attention.";
        using var norm = Part(new RmsNorm(Width, 1e-4), "norm.");
        using var feedForwardNorm = Part(new RmsNorm(Width, 1e-4), "ffn_norm.");
        using var feedForward = Part(new FeedForward(Width, new FeedForwardOptions { IntermediateSize = 16 }), "ffn.");

        var x = Values.Normal(3, 2, 7, Width);
        var mixed = x + router.Branch(route).call(norm.call(x));
        TensorAssert.Close(mixed + feedForward.call(feedForwardNorm.call(mixed)), router.call(x), 1e-6, part);

        TModule Part<TModule>(TModule module, string name)
            where TModule : nn.Module
        {
            var prefix = part + name;
            module.load_state_dict(router.state_dict().Where(entry => entry.Key.StartsWith(prefix, StringComparison.Ordinal))
                .ToDictionary(entry => entry.Key[prefix.Length..], entry => entry.Value));
            return module;
        }
    }

    [Fact]
    public void TheDefaultsAreTheDocumentedOnes()
    {
        using var router = new HybridAttention(16);
        Assert.Equal(new RoutingDecision(Route.Attention, RoutingReason.ShortSequencePrecision, "short_sequence_precision", 0.75, 256, 512), router.Decide(256));
        Assert.Equal(Route.Mamba, router.Decide(512).Route);
    }

    [Fact]
    public void DecidingFollowsTheModeAndCountsNothing()
    {
        using var router = new HybridAttention(Width, new HybridAttentionOptions { MambaThreshold = 4096, AttentionConfig = new() { NumHeads = 2 } });
        router.train();
        Assert.Equal(Route.Mamba, router.Decide(1500).Route);
        router.eval();
        Assert.Equal(Route.Attention, router.Decide(1500).Route);
        Assert.Equal(new RoutingMetrics(0, 0, 0, 0, null), router.GetMetrics());
    }

    [Fact]
    public void AnOverrideForcesTheBranchUntilItIsTakenBack()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var router = Bare();
        var x = Values.Normal(1, 1, 5, Width);
        router.Override = Route.Mamba;
        TensorAssert.Identical(router.Branch(Route.Mamba).call(x), router.call(x), "forced");
        Assert.Equal(new RoutingDecision(Route.Mamba, RoutingReason.Forced, "forced", 1, 5, 10), router.GetMetrics().Last);
        router.Override = null;
        TensorAssert.Identical(router.Branch(Route.Attention).call(x), router.call(x), "by the policy");
    }

    [Fact]
    public void MetricsCountEveryDecisionUntilTheReset()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var router = Bare();
        foreach (var length in new[] { 4, 20, 9, 11, 1 })
        {
            router.call(Values.Normal(1, 2, length, Width));
        }

        var metrics = router.GetMetrics();
        Assert.Equal((5, 2, 3), (metrics.TotalDecisions, metrics.MambaCount, metrics.AttentionCount));
        Assert.Equal(9, metrics.AverageLength);
        Assert.Equal(1, metrics.Last!.Value.Length);

        router.ResetMetrics();
        Assert.Equal(5, metrics.TotalDecisions);
        Assert.Equal(new RoutingMetrics(0, 0, 0, 0, null), router.GetMetrics());
    }

    [Fact]
    public void ACarriedSequenceIsDecidedOnceAndKeepsItsRoute()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var router = Bare();
        var x = Values.Normal(4, 2, 30, Width);
        foreach (var (prefill, route) in new[] { (5, Route.Attention), (12, Route.Mamba) })
        {
            router.ResetMetrics();
            using var state = (RoutedState)router.CreateState(2);
            Assert.Null(state.Route);
            Assert.Null(state.Inner);
            var pieces = new List<Tensor> { router.forward(x.narrow(1, 0, prefill), new MixerContext { State = state }) };
            Assert.Equal(prefill, state.Decision!.Value.Length);
            for (var t = prefill; t < 30; t++)
            {
                // A single token alone would go to attention, and 30 tokens to Mamba.
                pieces.Add(router.forward(x.narrow(1, t, 1), new MixerContext { State = state }));
                Assert.Equal(route, state.Route);
            }

            Assert.Equal(30, state.Position);
            Assert.Equal(1, router.GetMetrics().TotalDecisions);
            TensorAssert.Close(router.Branch(route).call(x), cat(pieces, 1), 1e-5, $"{route} for the whole sequence");
        }
    }

    [Fact]
    public void AnOverrideDoesNotMoveSequencesThatHaveARoute()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var router = Bare();
        using var state = (RoutedState)router.CreateState(1);
        var x = Values.Normal(4, 1, 6, Width);
        router.forward(x.narrow(1, 0, 3), new MixerContext { State = state });
        router.Override = Route.Mamba;
        var rest = router.forward(x.narrow(1, 3, 3), new MixerContext { State = state });
        Assert.Equal(Route.Attention, state.Route);
        TensorAssert.Close(router.Branch(Route.Attention).call(x).narrow(1, 3, 3), rest, 1e-5, "the rest");
    }

    [Fact]
    public void ARefusedCallCountsNothing()
    {
        using var scope = NewDisposeScope();
        using var router = Bare();
        Expect("Lengths must have one entry a batch row, 2; got 0.", []);
        Expect("a length must be 1..5; got 0.", [0, 0]);
        Expect("a length must be 1..5; got 60.", [3, 60]);
        Assert.Throws<ArgumentException>(() => router.call(Values.Normal(1, 2, 5, Width).to_type(ScalarType.Float64)));
        Assert.Equal(0, router.GetMetrics().TotalDecisions);

        void Expect(string text, long[] lengths) => Assert.Contains(
            text,
            Assert.Throws<ArgumentException>(() => router.forward(Values.Normal(1, 2, 5, Width), new MixerContext { Lengths = lengths })).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void ACallWithAStateThatIsRefusedChoosesAndCountsNothing()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var router = new HybridAttention(
            Width, new HybridAttentionOptions { ResidualBranches = false, AttentionConfig = new() { NumHeads = 2, MaxLength = 3 } });
        using var state = (RoutedState)router.CreateState(1);
        Assert.Throws<InvalidOperationException>(() => router.forward(Values.Normal(1, 1, 5, Width), new MixerContext { State = state }));
        Assert.Null(state.Route);
        Assert.Equal(0, state.Position);
        Assert.Equal(0, router.GetMetrics().TotalDecisions);
        router.forward(Values.Normal(1, 1, 3, Width), new MixerContext { State = state });
        Assert.Equal(Route.Attention, state.Route);
    }

    [Fact]
    public void EightThreadsLoseNoCount()
    {
        // Nothing but counting, so that the threads do meet in it.
        const int counts = 100_000;
        using var router = Bare();
        RunEightThreads(worker =>
        {
            for (var i = 0; i < counts; i++)
            {
                router.Count(router.Decide(5 + worker));
            }
        });

        var metrics = router.GetMetrics();
        Assert.Equal((8 * counts, 3 * counts, 5 * counts), (metrics.TotalDecisions, metrics.MambaCount, metrics.AttentionCount));
        Assert.Equal(8.5, metrics.AverageLength);
    }

    [Fact]
    public void EightThreadsShareOneRouter()
    {
        const int threads = 8;
        const int calls = 60;
        using var router = Bare();
        RunEightThreads(Run);
        var metrics = router.GetMetrics();
        Assert.Equal(threads * calls, metrics.TotalDecisions);
        Assert.Equal(threads * calls / 3, metrics.MambaCount);
        Assert.Equal(threads * calls * 2 / 3, metrics.AttentionCount);
        Assert.Equal((2 + 5 + 11) / 3.0, metrics.AverageLength, 1e-12);

        void Run(int worker)
        {
            using var scope = NewDisposeScope();
            using var guard = no_grad();
            var inputs = new[] { 2, 5, 11 }.Select(length => Values.Normal((ulong)worker, 1, length, Width)).ToArray();
            var expected = inputs.Select((x, i) => router.Branch(i == 2 ? Route.Mamba : Route.Attention).call(x)).ToArray();
            for (var call = 0; call < calls; call++)
            {
                using var state = router.CreateState(1);
                using var y = router.forward(inputs[call % 3], new MixerContext { State = call % 2 == 0 ? state : null });
                TensorAssert.Close(expected[call % 3], y, 1e-6, $"thread {worker}, call {call}");
            }
        }
    }

    [Fact]
    public void BothBranchesWriteIntoTheResidualStream()
    {
        using var bare = Bare();
        Assert.Equal(["attention.o_proj.weight", "mamba.out_proj.weight"], NamesOf(bare));
        using var wrapped = new HybridAttention(Width, new HybridAttentionOptions { AttentionConfig = new() { NumHeads = 2 } });
        Assert.Equal(
            ["attention.ffn.down_proj.weight", "attention.mixer.o_proj.weight", "mamba.ffn.down_proj.weight", "mamba.mixer.out_proj.weight"],
            NamesOf(wrapped));

        static IEnumerable<string> NamesOf(HybridAttention router) => router.named_parameters()
            .Where(entry => router.ResidualOutputWeights.Any(weight => ReferenceEquals(weight, entry.parameter))).Select(entry => entry.name).Order(StringComparer.Ordinal);
    }

    public static TheoryData<string, HybridAttentionOptions> BadOptions => new()
    {
        { "HybridAttentionOptions.MambaThreshold must be at least 1; got 0.", new HybridAttentionOptions { MambaThreshold = 0 } },
        { "HybridAttentionOptions.TransformerMaxLength must be at least 1; got 0.", new HybridAttentionOptions { TransformerMaxLength = 0 } },
        { "HybridAttentionOptions.DropoutRate must be 0 or more and below 1; got 1.", new HybridAttentionOptions { DropoutRate = 1 } },
        { "HybridAttentionOptions.LayerNormEps must be positive; got 0.", new HybridAttentionOptions { LayerNormEps = 0 } },
        { "HybridAttentionOptions.IntermediateSize must be at least 1; got 0.", new HybridAttentionOptions { IntermediateSize = 0 } },
        { "MambaOptions.DState must be at least 1; got 0.", new HybridAttentionOptions { MambaConfig = new() { DState = 0 } } },
        { "AttentionOptions.NumHeads must be at least 1; got 0.", new HybridAttentionOptions { AttentionConfig = new() { NumHeads = 0 } } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, HybridAttentionOptions options)
    {
        var error = Assert.ThrowsAny<ArgumentException>(() => new HybridAttention(2 * Width, options));
        Assert.StartsWith(text, error.Message, StringComparison.Ordinal);
    }

    /// <summary>Runs the body on eight threads at once; what one of them throws is thrown here.</summary>
    private static void RunEightThreads(Action<int> body) => Task.WaitAll(
        [.. Enumerable.Range(0, 8).Select(worker => Task.Factory.StartNew(
            () => body(worker), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))]);

    /// <summary>Attention below ten tokens, Mamba from there on, without norms and residuals.</summary>
    private static HybridAttention Bare()
    {
        manual_seed(1);
        return new HybridAttention(
            Width, new HybridAttentionOptions { MambaThreshold = 10, ResidualBranches = false, AttentionConfig = new AttentionOptions { NumHeads = 2 } });
    }
}
