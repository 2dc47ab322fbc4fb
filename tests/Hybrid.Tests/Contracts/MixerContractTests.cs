using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Contracts;

/// <summary>
/// What every mixer must do. A mixer gets all of it by one class that derives from this one and says how to make the mixer; a test over
/// the registry fails where a mixer has none. Here is what holds for a call; what holds for states, for rows of several sequences and for
/// other types of weights stands in files of its own.
/// </summary>
public abstract partial class MixerContractTests
{
    // Both sides are float32 computations of the same numbers in another order, over at most 64 steps.
    private const double Tolerance = 1e-5;
    private const long Batch = 3;

    /// <summary>The name in the registry that this class covers.</summary>
    public abstract string RegistryName { get; }

    /// <summary>Makes a small mixer from torch's default generator.</summary>
    protected abstract SequenceMixer Create();

    /// <summary>False where the mixer refuses <see cref="MixerContext.PrefixLengths"/>, as its docs say.</summary>
    protected virtual bool HonoursPrefixes => true;

    [Fact]
    public void OutputHasTheShapeAndTypeOfTheInput()
    {
        using var mixer = Make();
        foreach (var time in new long[] { 1, 2, 63, 65 })
        {
            using var scope = NewDisposeScope();
            var y = mixer.call(Input(mixer, time));
            Assert.Equal([Batch, time, mixer.Width], y.shape);
            Assert.Equal(ScalarType.Float32, y.dtype);
            Assert.True(y.isfinite().all().ToBoolean());
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(7)]
    [InlineData(15)]
    [InlineData(31)]
    [InlineData(32)]
    [InlineData(63)]
    public void OutputsDoNotDependOnLaterInputs(long prefix)
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 64);
        var changed = cat([x.narrow(1, 0, prefix), randn(Batch, 64 - prefix, mixer.Width) * 3], 1);
        var (before, after) = (mixer.call(x), mixer.call(changed));
        TensorAssert.Close(before.narrow(1, 0, prefix), after.narrow(1, 0, prefix), 1e-6, $"{RegistryName}, prefix {prefix}");
        Assert.True(
            TensorAssert.RelativeError(before.narrow(1, prefix, 64 - prefix), after.narrow(1, prefix, 64 - prefix)) > 1e-3,
            "the changed suffix must show in the outputs, or the test says nothing");
    }

    [Fact]
    public void GradientsReachEveryParameterAndTheInput()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        var x = Input(mixer, 17).requires_grad_(true);
        (mixer.call(x) * randn(Batch, 17, mixer.Width)).sum().backward();
        Assert.True(x.grad!.abs().sum().ToDouble() > 0);
        foreach (var (name, parameter) in TrainedParameters(mixer))
        {
            Assert.False(parameter.grad is null, $"{name} has no gradient");
            Assert.True(parameter.grad!.isfinite().all().ToBoolean(), $"the gradient of {name} is not finite");
            Assert.True(parameter.grad!.abs().sum().ToDouble() > 0, $"the gradient of {name} is zero");
        }
    }

    [Fact]
    public void AStateDictRestoresTheSameFunction()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var other = Make(seed: 99);
        var x = Input(mixer, 9);
        var expected = mixer.call(x);
        Assert.True(TensorAssert.RelativeError(expected, other.call(x)) > 1e-3);
        other.load_state_dict(mixer.state_dict());
        TensorAssert.Identical(expected, other.call(x), "after load_state_dict");
        Assert.DoesNotContain(mixer.state_dict().Keys, key => key.Contains("BackingField", StringComparison.Ordinal));
    }

    [Fact]
    public void BadInputIsNamedAndLeavesTheStateAlone()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var state = mixer.CreateState(Batch);
        Expect($"{mixer.GetName()}: x must be [B, T, {mixer.Width}]", () => mixer.call(zeros(2, 5, mixer.Width + 1)));
        Expect("got [5, " + mixer.Width, () => mixer.call(zeros(5, mixer.Width)));
        Expect("x must be Float32", () => mixer.call(zeros([2, 5, mixer.Width], dtype: ScalarType.Float64)));
        Expect($"the state holds {Batch} sequences; the input has 2 batch rows", () => mixer.forward(zeros(2, 5, mixer.Width), With(state)));
        Expect("the state must be a", () => mixer.forward(zeros(Batch, 5, mixer.Width), With(new ForeignState(Batch))));
        Expect("Lengths must have one entry a batch row, 3; got 2", () => mixer.forward(Input(mixer, 5), new MixerContext { State = state, Lengths = [5, 5] }));
        Expect("a length must be 1..5; got 6", () => mixer.forward(Input(mixer, 5), new MixerContext { State = state, Lengths = [5, 6, 5] }));
        Expect("SequenceIds must be Int64 [3, 5]", () => mixer.forward(Input(mixer, 5), new MixerContext { SequenceIds = zeros([3, 4], dtype: ScalarType.Int64) }));
        Expect(
            "carry neither State nor Lengths",
            () => mixer.forward(Input(mixer, 5), new MixerContext { State = state, SequenceIds = zeros([3, 5], dtype: ScalarType.Int64) }));
        Assert.Equal(0, state.Position);
        Assert.Throws<ArgumentOutOfRangeException>(() => mixer.CreateState(0));

        var x = Input(mixer, 6);
        TensorAssert.Close(mixer.call(x), mixer.forward(x, With(state)), Tolerance, "after the errors");

        static void Expect(string text, Action action) =>
            Assert.Contains(text, Assert.ThrowsAny<ArgumentException>(action).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AHundredCallsLeaveNoTensorBehind()
    {
        using var mixer = Make();
        using var x = Input(mixer, 8);
        using var step = Input(mixer, 1);
        Run();
        var before = LiveTensors.Before();
        for (var call = 0; call < 100; call++)
        {
            Run();
        }

        Assert.Equal(before, Tensor.TotalCount);

        void Run()
        {
            mixer.call(x).Dispose();
            using var guard = no_grad();
            using var state = mixer.CreateState(Batch);
            mixer.forward(x, new MixerContext { State = state, Lengths = [8, 3, 1] }).Dispose();
            mixer.forward(step, With(state)).Dispose();
            using var clone = state.Clone();
            using var selected = state.Select([1]);
        }
    }

    [Fact]
    public void AMixerMadeInsideAScopeOutlivesIt()
    {
        SequenceMixer mixer;
        using (NewDisposeScope())
        {
            mixer = Make();
        }

        using (mixer)
        using (var x = Input(mixer, 4))
        using (var y = mixer.call(x))
        {
            Assert.True(y.isfinite().all().ToBoolean());
        }
    }

    /// <summary>The parameters that one forward pass uses.</summary>
    protected virtual IEnumerable<(string Name, TorchSharp.Modules.Parameter Parameter)> TrainedParameters(SequenceMixer mixer) =>
        mixer.named_parameters();

    protected static MixerContext With(MixerState state) => new() { State = state };

    protected internal SequenceMixer Make(long seed = 11)
    {
        manual_seed(seed);
        return Create();
    }

    protected internal static Tensor Input(SequenceMixer mixer, long time, long seed = 21)
    {
        using var generator = new Generator((ulong)seed);
        return randn(Batch, time, mixer.Width, generator: generator);
    }

    private sealed class ForeignState(long batch) : MixerState(batch);
}
