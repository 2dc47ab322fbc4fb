using Hybrid.Attention;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

/// <summary>Rows of one batch that go different ways, against calls row by row.</summary>
public sealed class MixedLengthsTests : IDisposable
{
    private const long Width = 8;

    // Both sides are float32 computations of the same numbers, in batches of another size.
    private const double Tolerance = 1e-5;
    private static readonly long[] Lengths = [14, 3, 9, 10, 1];
    private readonly DisposeScope scope = NewDisposeScope();
    private readonly HybridAttention router = Make(ThresholdCrossing.Stay);

    public void Dispose()
    {
        router.Dispose();
        scope.Dispose();
    }

    [Theory]
    [InlineData(PaddingSide.Right)]
    [InlineData(PaddingSide.Left)]
    public void OutputsEqualThoseOfCallsRowByRow(PaddingSide side)
    {
        using var guard = no_grad();
        var x = Values.Normal(1, Lengths.Length, 16, Width);
        var y = router.forward(x, new MixerContext { Lengths = Lengths, PaddingSide = side });
        for (var row = 0; row < Lengths.Length; row++)
        {
            var start = side == PaddingSide.Right ? 0 : 16 - Lengths[row];
            var own = x.narrow(0, row, 1).narrow(1, start, Lengths[row]);
            TensorAssert.Close(router.call(own), y.narrow(0, row, 1).narrow(1, start, Lengths[row]), Tolerance, $"row {row}");
            Assert.Equal(Lengths[row], y.select(0, row).abs().sum(dim: -1).ne(0).sum().ToInt64());
        }
    }

    [Fact]
    public void EachRowKeepsItsPrefix()
    {
        using var guard = no_grad();
        var x = Values.Normal(1, Lengths.Length, 16, Width);
        long[] prefixes = [2, 3, 8, 0, 1];
        var y = router.forward(x, new MixerContext { Lengths = Lengths, PrefixLengths = prefixes });
        for (var row = 0; row < Lengths.Length; row++)
        {
            var own = router.forward(x.narrow(0, row, 1).narrow(1, 0, Lengths[row]), new MixerContext { PrefixLengths = [prefixes[row]] });
            TensorAssert.Close(own, y.narrow(0, row, 1).narrow(1, 0, Lengths[row]), Tolerance, $"row {row}");
        }

        using var anew = Make(ThresholdCrossing.Reprefill);
        using var state = anew.CreateState(Lengths.Length);
        Assert.Throws<NotSupportedException>(() => anew.forward(x, new MixerContext { State = state, PrefixLengths = prefixes }));
        Assert.Equal(0, state.Position);
    }

    [Fact]
    public void EveryRowIsDecidedAndCounted()
    {
        using var guard = no_grad();
        var call = router.Run(Values.Normal(1, Lengths.Length, 16, Width), new MixerContext { Lengths = Lengths });
        Assert.Equal("mixed", call.Metrics.SelectedModule);
        Assert.Equal(Lengths, call.Metrics.Decisions.Select(decision => decision.Length));
        Assert.Equal(
            [Route.Mamba, Route.Attention, Route.Attention, Route.Mamba, Route.Attention], call.Metrics.Decisions.Select(decision => decision.Route));
        var metrics = router.GetMetrics();
        Assert.Equal((5, 2, 3, 37 / 5.0), (metrics.TotalDecisions, metrics.MambaCount, metrics.AttentionCount, metrics.AverageLength));
    }

    [Fact]
    public void GradientsEqualThoseOfCallsRowByRow()
    {
        var x = Values.Normal(1, Lengths.Length, 16, Width).requires_grad_(true);
        var weights = Values.Normal(2, Lengths.Length, 16, Width);
        (router.forward(x, new MixerContext { Lengths = Lengths }) * weights).sum().backward();
        var together = router.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter.grad!.clone());
        var inputs = x.grad!.clone();
        router.zero_grad();
        x.grad!.zero_();
        for (var row = 0; row < Lengths.Length; row++)
        {
            var part = (router.call(x.narrow(0, row, 1).narrow(1, 0, Lengths[row])) * weights.narrow(0, row, 1).narrow(1, 0, Lengths[row])).sum();
            part.backward();
        }

        TensorAssert.Close(x.grad!, inputs, Tolerance, "the input");
        foreach (var (name, parameter) in router.named_parameters())
        {
            TensorAssert.Close(parameter.grad!, together[name], Tolerance, name);
        }
    }

    [Fact]
    public void StatesContinueAsThoseOfTheRowsDo()
    {
        using var guard = no_grad();
        var x = Values.Normal(1, Lengths.Length, 30, Width);
        using var state = Prefilled(router, x);
        Assert.Null(state.Route);
        Assert.Null(state.Inner);
        Assert.Null(state.Decision);
        Assert.Equal(Lengths, state.Positions);
        Assert.Equal([Route.Mamba, Route.Attention], state.Groups.Select(group => group.Route));
        Assert.Equal([[0L, 3], [1L, 2, 4]], state.Groups.Select(group => group.Rows));
        CheckContinuation(router, state, x, [0, 1, 2, 3, 4]);
    }

    [Fact]
    public void ClonesSelectionsAndFilesContinueAsTheOriginalDoes()
    {
        using var guard = no_grad();
        var x = Values.Normal(1, Lengths.Length, 30, Width);
        using var state = Prefilled(router, x);
        using var clone = (RoutedState)state.Clone();
        using var selected = (RoutedState)state.Select([4, 0, 0, 2]);
        using var oneWay = (RoutedState)state.Select([3, 0]);
        Assert.Equal(Route.Mamba, oneWay.Route);
        Assert.NotNull(oneWay.Inner);
        Assert.False(state.CanTrim);
        Assert.Equal(state.ByteSize, clone.ByteSize);

        var path = Path.GetTempFileName();
        using var loaded = (RoutedState)router.CreateState(Lengths.Length);
        try
        {
            state.Save(path);
            loaded.Load(path);
        }
        finally
        {
            File.Delete(path);
        }

        Assert.Equal(state.Positions, loaded.Positions);
        CheckContinuation(router, clone, x, [0, 1, 2, 3, 4]);
        CheckContinuation(router, loaded, x, [0, 1, 2, 3, 4]);
        CheckContinuation(router, selected, x, [4, 0, 0, 2]);
        CheckContinuation(router, oneWay, x, [3, 0]);
    }

    [Fact]
    public void AFileWhoseGroupsDoNotCoverTheRowsIsRefused()
    {
        using var guard = no_grad();
        var path = Path.GetTempFileName();
        try
        {
            Hybrid.Checkpoints.SafeTensorsFile.Write(path, [], new Dictionary<string, string>
            {
                ["kind"] = nameof(RoutedState), ["positions"] = "4,4", ["groups"] = "Mamba:0;Attention:0",
            });
            using var state = router.CreateState(2);
            var before = LiveTensors.Before();
            var error = Assert.Throws<InvalidDataException>(() => state.Load(path));
            Assert.Contains("expected groups that hold each of 2 rows once; found 'Mamba:0;Attention:0'", error.Message, StringComparison.Ordinal);
            Assert.Equal(before, Tensor.TotalCount);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void ACallThatOneGroupRefusesAdvancesNone()
    {
        using var guard = no_grad();
        using var small = Make(ThresholdCrossing.Stay, maxLength: 12);
        var x = Values.Normal(1, Lengths.Length, 30, Width);
        using var state = Prefilled(small, x);
        var before = Values.Of(state.Groups[0].State.NamedTensors.Last().Tensor);

        // Row 2 has 9 tokens, and its cache takes 12.
        Assert.Throws<InvalidOperationException>(() => small.forward(x.narrow(1, 0, 4), new MixerContext { State = state }));
        Assert.Equal(Lengths, state.Positions);
        Assert.Equal(before, Values.Of(state.Groups[0].State.NamedTensors.Last().Tensor));
        CheckContinuation(small, state, x, [0, 1, 2, 3, 4], steps: 3);
    }

    [Fact]
    public void RowsWithTheSameLengthAndOtherContentGoTheirOwnWays()
    {
        using var guard = no_grad();
        using var byContent = new HybridAttention(Width, new HybridAttentionOptions
        {
            Policy = "content", ResidualBranches = false, AttentionConfig = new AttentionOptions { NumHeads = 2 },
        });
        var noise = Values.Normal(5, 1, 12, Width);
        var repeated = Values.Normal(6, 1, 1, Width).expand(1, 12, Width);
        var call = byContent.Run(cat([noise, repeated], 0));
        Assert.Equal([Route.Attention, Route.Mamba], call.Metrics.Decisions.Select(decision => decision.Route));
        TensorAssert.Close(byContent.Branch(Route.Attention).call(noise), call.Output.narrow(0, 0, 1), Tolerance, "the noise");
        TensorAssert.Close(byContent.Branch(Route.Mamba).call(repeated), call.Output.narrow(0, 1, 1), Tolerance, "the repetition");
    }

    [Fact]
    public void AHundredMixedCallsLeaveNoTensorBehind()
    {
        using var x = Values.Normal(1, Lengths.Length, 16, Width);
        using var step = Values.Normal(1, Lengths.Length, 1, Width);
        using var anew = Make(ThresholdCrossing.Reprefill);
        Run();
        var before = LiveTensors.Before();
        for (var call = 0; call < 50; call++)
        {
            Run();
        }

        Assert.Equal(before, Tensor.TotalCount);

        void Run()
        {
            using var guard = no_grad();
            using var state = anew.CreateState(Lengths.Length);
            anew.forward(x, new MixerContext { State = state, Lengths = Lengths }).Dispose();
            anew.forward(step, new MixerContext { State = state }).Dispose();
            using var clone = state.Clone();
            using var selected = state.Select([1]);
        }
    }

    /// <summary>Attention below ten tokens, Mamba from there on, without norms and residuals.</summary>
    private static HybridAttention Make(ThresholdCrossing crossing, long? maxLength = null)
    {
        manual_seed(1);
        return new HybridAttention(Width, new HybridAttentionOptions
        {
            MambaThreshold = 10,
            ResidualBranches = false,
            OnThresholdCrossing = crossing,
            AttentionConfig = new AttentionOptions { NumHeads = 2, MaxLength = maxLength },
        });
    }

    private static RoutedState Prefilled(HybridAttention router, Tensor x)
    {
        var state = (RoutedState)router.CreateState(Lengths.Length);
        router.forward(x.narrow(1, 0, 16), new MixerContext { State = state, Lengths = Lengths });
        return state;
    }

    /// <summary>Steps on with tokens 16, 17, ... of each row; every row must go on as a state of its own does.</summary>
    private static void CheckContinuation(HybridAttention router, RoutedState state, Tensor x, long[] rows, long steps = 4)
    {
        var next = x.index_select(0, tensor(rows)).narrow(1, 16, steps);
        var pieces = cat([.. Enumerable.Range(0, (int)steps).Select(t => router.forward(next.narrow(1, t, 1), new MixerContext { State = state }))], 1);
        for (var i = 0; i < rows.Length; i++)
        {
            using var own = router.CreateState(1);
            router.forward(x.narrow(0, rows[i], 1).narrow(1, 0, Lengths[rows[i]]), new MixerContext { State = own });
            var expected = router.forward(next.narrow(0, i, 1), new MixerContext { State = own });
            TensorAssert.Close(expected, pieces.narrow(0, i, 1), Tolerance, $"row {rows[i]}");
            Assert.Equal(own.Position, state.Positions[i]);
        }
    }
}
