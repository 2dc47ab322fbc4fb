using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class TransPointStateTests
{
    private const long Width = 6;
    private static readonly TransPointOptions Options = new() { TransPoint = 9, DState = 4, HeadDim = 3, NGroups = 2 };

    [Fact]
    public void KeysAndValuesAreFreedAtThePoint()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make();
        using var state = (TransPointState)mixer.CreateState(2);
        Feed(mixer, state, 8);
        Assert.Equal(["conv", "ssm", "k", "v"], state.NamedTensors.Select(entry => entry.Name));
        Assert.Equal([2, 2, 8, 4], state.Cache!.Keys.shape);
        Assert.Equal([2, 2, 8, (2 * 3) + 2], state.Cache.Values.shape);
        Assert.Equal(0, state.Recurrent.abs().sum().ToDouble());
        var before = Tensor.TotalCount;
        Feed(mixer, state, 1);
        Assert.Null(state.Cache);
        Assert.Equal(before - 2, Tensor.TotalCount);
        Assert.Equal(["conv", "ssm"], state.NamedTensors.Select(entry => entry.Name));
        Assert.Equal(((2 * 3 * 28) + (2 * 4 * 3 * 4)) * sizeof(float), state.ByteSize);
        Feed(mixer, state, 20);
        Assert.Equal(29, state.Position);
        Assert.Equal(((2 * 3 * 28) + (2 * 4 * 3 * 4)) * sizeof(float), state.ByteSize);
    }

    [Fact]
    public void TheCacheIsNoLongerThanThePoint()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new TransPointMixer(Width, Options with { TransPoint = 100 });
        using var state = (TransPointState)mixer.CreateState(1);
        Assert.Equal(64, state.Cache!.Capacity);
        Feed(mixer, state, 64);
        Feed(mixer, state, 1);
        Assert.Equal(100, state.Cache.Capacity);
    }

    [Theory]
    [InlineData(4, 20)]
    [InlineData(20, 4)]
    [InlineData(9, 4)]
    [InlineData(20, 0)]
    public void AStateIsReplacedOnEitherSideOfThePoint(long saved, long present)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var folder = new Checkpoints.TemporaryFolder();
        using var mixer = Make();
        using var state = mixer.CreateState(2);
        Feed(mixer, state, saved);
        var path = folder.File("state.safetensors");
        state.Save(path);
        using var other = mixer.CreateState(2);
        Feed(mixer, other, present);
        other.Load(path);
        Assert.Equal(state.Positions, other.Positions);
        Assert.Equal(state.NamedTensors.Select(entry => entry.Name), other.NamedTensors.Select(entry => entry.Name));
        var next = Values.Normal(3, 2, 9, Width);
        TensorAssert.Identical(
            mixer.forward(next, new MixerContext { State = state }), mixer.forward(next, new MixerContext { State = other }), "continued");
    }

    [Fact]
    public void AStateOfAnotherPointIsRefused()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var folder = new Checkpoints.TemporaryFolder();
        using var mixer = Make();
        using var later = new TransPointMixer(Width, Options with { TransPoint = 12 });
        using var state = mixer.CreateState(2);
        Feed(mixer, state, 11);
        var path = folder.File("state.safetensors");
        state.Save(path);
        using var other = (TransPointState)later.CreateState(2);
        Feed(later, other, 3);
        var error = Assert.Throws<InvalidDataException>(() => other.Load(path));
        Assert.Contains("expected a state with its TransPoint at 12; found 9", error.Message, StringComparison.Ordinal);
        Assert.Equal((3, 3), (other.Position, other.Cache!.Position));
    }

    [Fact]
    public void SelectedRowsThatHaveAllCrossedNeedNoCache()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make();
        using var state = (TransPointState)mixer.CreateState(3);
        var x = Values.Normal(1, 3, 14, Width);
        mixer.forward(x, new MixerContext { State = state, Lengths = [14, 4, 9] });
        using var crossed = (TransPointState)state.Select([2, 0]);
        using var mixed = (TransPointState)state.Select([1, 2]);
        Assert.Null(crossed.Cache);
        Assert.Equal([4, 9], mixed.Cache!.Positions);
        var next = Values.Normal(2, 3, 7, Width);
        var expected = mixer.forward(next, new MixerContext { State = state });
        var order = tensor(new long[] { 2, 0 });
        TensorAssert.Close(
            expected.index_select(0, order), mixer.forward(next.index_select(0, order), new MixerContext { State = crossed }), 1e-6, "rows 2, 0");
        TensorAssert.Close(
            expected.narrow(0, 1, 2), mixer.forward(next.narrow(0, 1, 2), new MixerContext { State = mixed }), 1e-5, "rows 1, 2");
    }

    private static TransPointMixer Make()
    {
        manual_seed(5);
        return new TransPointMixer(Width, Options);
    }

    private static void Feed(TransPointMixer mixer, MixerState state, long tokens)
    {
        if (tokens > 0)
        {
            using var scope = NewDisposeScope();
            mixer.forward(Values.Normal((ulong)(state.Position + 1), state.BatchSize, tokens, Width), new MixerContext { State = state });
        }
    }
}
