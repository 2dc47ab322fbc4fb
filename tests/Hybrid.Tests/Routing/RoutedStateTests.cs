using Hybrid.Attention;
using Hybrid.Checkpoints;
using Hybrid.Mixers;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public sealed class RoutedStateTests : IDisposable
{
    private const long Width = 8;
    private readonly string path = Path.Combine(Path.GetTempPath(), $"hybrid-route-{Guid.NewGuid():N}.safetensors");
    private readonly DisposeScope scope = NewDisposeScope();
    private readonly HybridAttention router;

    public RoutedStateTests()
    {
        manual_seed(1);
        router = new HybridAttention(
            Width, new HybridAttentionOptions { MambaThreshold = 10, ResidualBranches = false, AttentionConfig = new AttentionOptions { NumHeads = 2 } });
    }

    public void Dispose()
    {
        router.Dispose();
        scope.Dispose();
        File.Delete(path);
    }

    [Theory]
    [InlineData(6, Route.Attention)]
    [InlineData(12, Route.Mamba)]
    public void ASavedStateKeepsItsRoute(long prefill, Route route)
    {
        using var guard = no_grad();
        var next = Values.Normal(2, 2, 20, Width);
        using var state = Started(prefill);
        state.Save(path);

        // Loaded into a state that had gone the other way, which 20 more tokens or one would choose too.
        using var loaded = Started(route == Route.Mamba ? 3 : 15);
        loaded.Load(path);
        Assert.Equal(route, loaded.Route);
        Assert.Equal(prefill, loaded.Position);
        Assert.IsType(route == Route.Mamba ? typeof(MambaState) : typeof(KeyValueState), loaded.Inner);
        foreach (var piece in new[] { next.narrow(1, 0, 1), next.narrow(1, 1, 19) })
        {
            TensorAssert.Identical(Continue(state, piece), Continue(loaded, piece), "continued");
        }
    }

    [Fact]
    public void AnUnroutedStateIsSavedAsOne()
    {
        using var guard = no_grad();
        using var fresh = (RoutedState)router.CreateState(2);
        fresh.Save(path);
        using var loaded = Started(15);
        loaded.Load(path);
        Assert.Null(loaded.Route);
        Assert.Null(loaded.Inner);
        Assert.Equal(0, loaded.Position);
        Continue(loaded, Values.Normal(2, 2, 3, Width));
        Assert.Equal(Route.Attention, loaded.Route);
    }

    [Fact]
    public void AFileOfAnUnknownRouteIsRefusedAndChangesNothing()
    {
        using var guard = no_grad();
        SafeTensorsFile.Write(
            path, [], new Dictionary<string, string> { ["kind"] = nameof(RoutedState), ["positions"] = "4,4", ["route"] = "Sideways" });
        using var state = Started(5);
        var error = Assert.Throws<InvalidDataException>(() => state.Load(path));
        Assert.Contains("expected a route of Attention or Mamba", error.Message, StringComparison.Ordinal);
        Assert.Contains("'Sideways'", error.Message, StringComparison.Ordinal);
        Assert.Equal((Route.Attention, 5), (state.Route, state.Position));
    }

    [Fact]
    public void AFileWithoutTheTensorsOfItsRouteIsRefusedAndChangesNothing()
    {
        using var guard = no_grad();
        SafeTensorsFile.Write(
            path, [], new Dictionary<string, string> { ["kind"] = nameof(RoutedState), ["positions"] = "4,4", ["route"] = "Mamba" });
        using var state = Started(5);
        var before = LiveTensors.Before();
        Assert.Throws<InvalidDataException>(() => state.Load(path));
        Assert.Equal((Route.Attention, 5), (state.Route, state.Position));
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Fact]
    public void ClonesAndSelectionsOfAnUnroutedStateChooseForThemselves()
    {
        using var guard = no_grad();
        using var state = (RoutedState)router.CreateState(2);
        Assert.Equal(0, state.ByteSize);
        Assert.Empty(state.NamedTensors);
        using var clone = (RoutedState)state.Clone();
        using var selected = (RoutedState)state.Select([1, 0, 1]);
        Assert.Equal((2, 3), (clone.BatchSize, selected.BatchSize));
        Assert.True(state.CanTrim);
        state.Trim(0);

        Continue(clone, Values.Normal(2, 2, 4, Width));
        Continue(selected, Values.Normal(2, 3, 14, Width));
        Assert.Equal(Route.Attention, clone.Route);
        Assert.Equal(Route.Mamba, selected.Route);
        Assert.Null(state.Route);
    }

    [Theory]
    [InlineData(6, Route.Attention)]
    [InlineData(12, Route.Mamba)]
    public void ClonesAndSelectionsKeepTheRoute(long prefill, Route route)
    {
        using var guard = no_grad();
        using var state = Started(prefill);
        using var clone = (RoutedState)state.Clone();
        using var selected = (RoutedState)state.Select([1]);
        Assert.Equal((route, route), (clone.Route, selected.Route));
        Assert.Equal(state.Decision, clone.Decision);
        Assert.Equal(state.Inner!.ByteSize, clone.ByteSize);
        Assert.Equal(route == Route.Attention, state.CanTrim);

        var next = Values.Normal(2, 2, 15, Width);
        var expected = Continue(state, next);
        TensorAssert.Identical(expected, Continue(clone, next), "the clone");
        TensorAssert.Close(expected.narrow(0, 1, 1), Continue(selected, next.narrow(0, 1, 1)), 1e-6, "the selected row");
    }

    private RoutedState Started(long prefill)
    {
        var state = (RoutedState)router.CreateState(2);
        Continue(state, Values.Normal((ulong)prefill, 2, prefill, Width));
        return state;
    }

    private Tensor Continue(RoutedState state, Tensor x) => router.forward(x, new MixerContext { State = state });
}
