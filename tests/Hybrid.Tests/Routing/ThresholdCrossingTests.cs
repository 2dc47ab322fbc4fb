using Hybrid.Attention;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

/// <summary>What happens to a carried sequence that grows past the threshold.</summary>
public sealed class ThresholdCrossingTests : IDisposable
{
    private const long Width = 8;
    private const double Tolerance = 1e-5;
    private readonly DisposeScope scope = NewDisposeScope();

    public void Dispose() => scope.Dispose();

    [Fact]
    public void Stay_KeepsTheRouteAndNoInputs()
    {
        using var guard = no_grad();
        using var router = Make(ThresholdCrossing.Stay);
        var x = Values.Normal(1, 2, 14, Width);
        using var state = (RoutedState)router.CreateState(2);
        var y = Steps(router, state, x, 6);
        Assert.Equal(Route.Attention, state.Route);
        Assert.Equal(state.Inner!.ByteSize, state.ByteSize);
        TensorAssert.Close(router.Branch(Route.Attention).call(x), y, Tolerance, "attention throughout");
    }

    [Fact]
    public void Reprefill_GoesOnAsIfTheOtherBranchHadReadEverything()
    {
        using var guard = no_grad();
        using var router = Make(ThresholdCrossing.Reprefill);
        var x = Values.Normal(1, 2, 14, Width);
        using var state = (RoutedState)router.CreateState(2);
        var y = Steps(router, state, x, 6);
        Assert.Equal(Route.Mamba, state.Route);
        Assert.Equal((14, 14), (state.Position, state.Inner!.Position));

        // Token 10 is the first with which the sequence reaches the threshold.
        TensorAssert.Close(router.Branch(Route.Attention).call(x).narrow(1, 0, 9), y.narrow(1, 0, 9), Tolerance, "before");
        TensorAssert.Close(router.Branch(Route.Mamba).call(x).narrow(1, 9, 5), y.narrow(1, 9, 5), Tolerance, "after");
        Assert.Equal(1, router.GetMetrics().TotalDecisions);
        Assert.Equal(10, state.Decision!.Value.Length);
    }

    [Fact]
    public void Reprefill_MovesJustTheRowsThatCross()
    {
        using var guard = no_grad();
        using var router = Make(ThresholdCrossing.Reprefill);
        long[] lengths = [9, 4, 12, 7];
        long[] more = [3, 2, 1, 3];
        var x = Values.Normal(1, 4, 20, Width);
        using var state = (RoutedState)router.CreateState(4);
        router.forward(x.narrow(1, 0, 12), new MixerContext { State = state, Lengths = lengths });
        var next = x.narrow(1, 12, 4);
        var y = router.forward(next, new MixerContext { State = state, Lengths = more, PaddingSide = PaddingSide.Left });
        Assert.Equal([12, 6, 13, 10], state.Positions);
        Assert.Equal([[1L], [2L], [0L, 3]], state.Groups.Select(group => group.Rows));
        Assert.Equal([Route.Attention, Route.Mamba, Route.Mamba], state.Groups.Select(group => group.Route));
        var last = router.forward(x.narrow(1, 16, 1), new MixerContext { State = state });
        for (var row = 0; row < 4; row++)
        {
            var whole = cat([Row(x).narrow(1, 0, lengths[row]), Row(next).narrow(1, 4 - more[row], more[row]), Row(x).narrow(1, 16, 1)], 1);
            var expected = router.Branch(row == 1 ? Route.Attention : Route.Mamba).call(whole);
            TensorAssert.Close(expected.narrow(1, lengths[row], more[row]), Row(y).narrow(1, 4 - more[row], more[row]), Tolerance, $"row {row}");
            TensorAssert.Close(expected.narrow(1, lengths[row] + more[row], 1), Row(last), Tolerance, $"row {row}, the step after");

            Tensor Row(Tensor t) => t.narrow(0, row, 1);
        }
    }

    [Fact]
    public void Reprefill_LetsGradientsIntoTheNewInputs()
    {
        using var router = Make(ThresholdCrossing.Reprefill);
        var x = Values.Normal(1, 2, 12, Width);
        using var state = (RoutedState)router.CreateState(2);
        router.forward(x.narrow(1, 0, 8), new MixerContext { State = state });
        var next = x.narrow(1, 8, 4).clone().requires_grad_(true);
        router.forward(next, new MixerContext { State = state }).square().sum().backward();
        var gradient = next.grad!.clone();

        var fresh = x.narrow(1, 8, 4).clone().requires_grad_(true);
        router.Branch(Route.Mamba).call(cat([x.narrow(1, 0, 8), fresh], 1)).narrow(1, 8, 4).square().sum().backward();
        TensorAssert.Close(fresh.grad!, gradient, Tolerance, "the new inputs");
    }

    [Fact]
    public void Reprefill_StaysOnceTheInputsOutgrowTheBound()
    {
        using var guard = no_grad();
        using var router = Make(ThresholdCrossing.Reprefill, reprefillMaxTokens: 9);
        var x = Values.Normal(1, 1, 14, Width);
        using var state = (RoutedState)router.CreateState(1);
        var y = Steps(router, state, x, 6);
        Assert.Equal(Route.Attention, state.Route);
        Assert.Equal(state.Inner!.ByteSize, state.ByteSize);
        TensorAssert.Close(router.Branch(Route.Attention).call(x), y, Tolerance, "attention throughout");
    }

    [Fact]
    public void Reprefill_WorksFromACloneAFileAndATrimmedState()
    {
        using var guard = no_grad();
        using var router = Make(ThresholdCrossing.Reprefill);
        var x = Values.Normal(1, 2, 14, Width);
        using var state = (RoutedState)router.CreateState(2);
        router.forward(x.narrow(1, 0, 5), new MixerContext { State = state });
        Assert.Equal(state.Inner!.ByteSize + (2 * 5 * Width * 4), state.ByteSize);
        router.forward(Values.Normal(9, 2, 3, Width), new MixerContext { State = state });
        state.Trim(5);
        using var clone = (RoutedState)state.Clone();
        using var selected = (RoutedState)state.Select([1]);
        using var loaded = (RoutedState)router.CreateState(2);
        var path = Path.GetTempFileName();
        try
        {
            state.Save(path);
            loaded.Load(path);
        }
        finally
        {
            File.Delete(path);
        }

        var expected = router.Branch(Route.Mamba).call(x).narrow(1, 5, 9);
        foreach (var (copy, name) in new[] { (state, "trimmed"), (clone, "cloned"), (loaded, "loaded") })
        {
            TensorAssert.Close(expected, router.forward(x.narrow(1, 5, 9), new MixerContext { State = copy }), Tolerance, name);
        }

        TensorAssert.Close(expected.narrow(0, 1, 1), router.forward(x.narrow(0, 1, 1).narrow(1, 5, 9), new MixerContext { State = selected }), Tolerance, "selected");
    }

    [Fact]
    public void Throw_RefusesTheCallAndChangesNothing()
    {
        using var guard = no_grad();
        using var router = Make(ThresholdCrossing.Throw);
        var x = Values.Normal(1, 2, 14, Width);
        using var state = (RoutedState)router.CreateState(2);
        router.forward(x.narrow(1, 0, 6), new MixerContext { State = state });
        var error = Assert.Throws<InvalidOperationException>(() => router.forward(x.narrow(1, 6, 4), new MixerContext { State = state }));
        Assert.Contains("row 0 would have 10 tokens, which the policy 'length' sends to mamba; its state is that of attention", error.Message, StringComparison.Ordinal);
        Assert.Equal((Route.Attention, 6), (state.Route, state.Position));
        TensorAssert.Close(
            router.Branch(Route.Attention).call(x).narrow(1, 6, 3), router.forward(x.narrow(1, 6, 3), new MixerContext { State = state }), Tolerance, "afterwards");
    }

    [Fact]
    public void Throw_RefusesBeforeTheFirstLayerOfAModelAdvances()
    {
        using var guard = no_grad();
        var options = new LanguageModelOptions
        {
            VocabSize = 11,
            HiddenSize = Width,
            NumLayers = 2,
            Layers = ["mamba", "hybrid_attention"],
            Mixers = new Dictionary<string, object>
            {
                ["hybrid_attention"] = new HybridAttentionOptions
                {
                    MambaThreshold = 5, OnThresholdCrossing = ThresholdCrossing.Throw, AttentionConfig = new AttentionOptions { NumHeads = 2 },
                },
            },
        };
        using var model = new CausalLanguageModel(options);
        model.eval();
        using var state = model.CreateState(1);
        model.forward(zeros([1, 4], dtype: ScalarType.Int64), new MixerContext { State = state });
        Assert.Throws<InvalidOperationException>(() => model.forward(zeros([1, 1], dtype: ScalarType.Int64), new MixerContext { State = state }));
        Assert.Equal([4, 4], state.Parts.Select(part => part.Position));
    }

    private static HybridAttention Make(ThresholdCrossing crossing, long reprefillMaxTokens = 64)
    {
        manual_seed(1);
        return new HybridAttention(Width, new HybridAttentionOptions
        {
            MambaThreshold = 10,
            ResidualBranches = false,
            OnThresholdCrossing = crossing,
            ReprefillMaxTokens = reprefillMaxTokens,
            AttentionConfig = new AttentionOptions { NumHeads = 2 },
        });
    }

    /// <summary>A prefill, then one token at a time.</summary>
    private static Tensor Steps(HybridAttention router, RoutedState state, Tensor x, long prefill)
    {
        var context = new MixerContext { State = state };
        var pieces = new List<Tensor> { router.forward(x.narrow(1, 0, prefill), context) };
        for (var t = prefill; t < x.size(1); t++)
        {
            pieces.Add(router.forward(x.narrow(1, t, 1), context));
        }

        return cat(pieces, 1);
    }
}
