using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Contracts;

/// <summary>
/// What every mixer must do. A mixer gets all of it by one class that derives from this one and says how to make the mixer; a test over
/// the registry fails where a mixer has none.
/// </summary>
public abstract class MixerContractTests
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
    public void PrefillAndContinuationEqualTheWholeSequenceAtEveryPrefix()
    {
        const long time = 40;
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, time);
        var whole = mixer.call(x);
        for (var prefix = 1L; prefix < time; prefix++)
        {
            using var inner = NewDisposeScope();
            using var state = mixer.CreateState(Batch);
            var first = mixer.forward(x.narrow(1, 0, prefix), With(state));
            Assert.Equal(prefix, state.Position);
            var second = mixer.forward(x.narrow(1, prefix, time - prefix), With(state));
            Assert.Equal(time, state.Position);
            TensorAssert.Close(whole, cat([first, second], 1), Tolerance, $"{RegistryName}, prefix {prefix}");
        }
    }

    [Fact]
    public void SingleStepsEqualTheWholeSequenceFromEveryPrefix()
    {
        const long time = 33;
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, time);
        var whole = mixer.call(x);
        for (var prefix = 0L; prefix < time; prefix++)
        {
            using var inner = NewDisposeScope();
            using var state = mixer.CreateState(Batch);
            var pieces = new List<Tensor>();
            if (prefix > 0)
            {
                pieces.Add(mixer.forward(x.narrow(1, 0, prefix), With(state)));
            }

            for (var t = prefix; t < time; t++)
            {
                pieces.Add(mixer.forward(x.narrow(1, t, 1), With(state)));
            }

            TensorAssert.Close(whole, cat(pieces, 1), Tolerance, $"{RegistryName}, single steps from {prefix}");
        }
    }

    [Fact]
    public void ACloneOfAStateIsIndependent()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 12);
        using var state = mixer.CreateState(Batch);
        mixer.forward(x.narrow(1, 0, 7), With(state));
        using var clone = state.Clone();
        var expected = mixer.forward(x.narrow(1, 7, 5), With(state));
        Assert.Equal(7, clone.Position);
        TensorAssert.Identical(expected, mixer.forward(x.narrow(1, 7, 5), With(clone)), "continuing the clone");
    }

    [Fact]
    public void SelectedRowsContinueAsTheyWouldHave()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 12);
        using var state = mixer.CreateState(Batch);
        mixer.forward(x.narrow(1, 0, 7), With(state));
        using var selected = state.Select([2, 0, 2, 1]);
        Assert.Equal(4, selected.BatchSize);
        var next = x.narrow(1, 7, 5);
        var order = tensor(new long[] { 2, 0, 2, 1 });
        var expected = mixer.forward(next, With(state)).index_select(0, order);
        TensorAssert.Close(expected, mixer.forward(next.index_select(0, order), With(selected)), 1e-6, "rows 2, 0, 2, 1");
        Assert.Throws<ArgumentOutOfRangeException>(() => state.Select([3]));
    }

    [Fact]
    public void AStateThatCanTrimReturnsToAnEarlierPosition()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 12);
        using var state = mixer.CreateState(Batch);
        mixer.forward(x, With(state));
        if (!state.CanTrim)
        {
            Assert.Throws<NotSupportedException>(() => state.Trim(5));
            return;
        }

        state.Trim(5);
        Assert.Equal(5, state.Position);
        using var fresh = mixer.CreateState(Batch);
        mixer.forward(x.narrow(1, 0, 5), With(fresh));
        var other = Input(mixer, 4);
        TensorAssert.Close(mixer.forward(other, With(fresh)), mixer.forward(other, With(state)), 1e-6, "after the trim");
    }

    [Fact]
    public void AReloadedStateContinuesBitForBit()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 30);
        var path = Path.Combine(Path.GetTempPath(), $"hybrid-state-{Guid.NewGuid():N}.safetensors");
        try
        {
            foreach (var prefix in new long[] { 1, 7, 29 })
            {
                using var state = mixer.CreateState(Batch);
                mixer.forward(x.narrow(1, 0, prefix), With(state));
                state.Save(path);
                using var loaded = mixer.CreateState(Batch);
                loaded.Load(path);
                Assert.Equal(state.Positions, loaded.Positions);
                for (var t = prefix; t < 30; t++)
                {
                    var step = x.narrow(1, t, 1);
                    TensorAssert.Identical(mixer.forward(step, With(state)), mixer.forward(step, With(loaded)), $"prefix {prefix}, step {t}");
                }
            }

            using var other = mixer.CreateState(Batch + 1);
            Assert.Throws<InvalidDataException>(() => other.Load(path));
        }
        finally
        {
            File.Delete(path);
        }
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
    public void TrainingThroughACarriedStateWorks()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        var x = Input(mixer, 10);
        using var state = mixer.CreateState(Batch);
        var first = mixer.forward(x.narrow(1, 0, 6), With(state));
        var second = mixer.forward(x.narrow(1, 6, 4), With(state));
        (first.sum() + second.square().sum()).backward();
        Assert.All(TrainedParameters(mixer), entry => Assert.True(entry.Parameter.grad!.isfinite().all().ToBoolean(), entry.Name));
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

    [Theory]
    [InlineData(PaddingSide.Right)]
    [InlineData(PaddingSide.Left)]
    public void PaddedRowsEqualTheirSequencesAlone(PaddingSide side)
    {
        const long time = 13;
        long[] lengths = [13, 5, 1];
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, time);
        var next = Input(mixer, 3, seed: 8);
        using var state = mixer.CreateState(Batch);
        var padded = mixer.forward(x, new MixerContext { State = state, Lengths = lengths, PaddingSide = side });
        Assert.Equal(lengths, state.Positions);
        var continued = mixer.forward(next, With(state));
        for (var row = 0; row < Batch; row++)
        {
            using var alone = mixer.CreateState(1);
            var start = side == PaddingSide.Left ? time - lengths[row] : 0;
            var expected = mixer.forward(x.narrow(0, row, 1).narrow(1, start, lengths[row]), With(alone));
            TensorAssert.Close(expected, padded.narrow(0, row, 1).narrow(1, start, lengths[row]), Tolerance, $"row {row}");
            TensorAssert.Close(mixer.forward(next.narrow(0, row, 1), With(alone)), continued.narrow(0, row, 1), Tolerance, $"row {row}, continued");
            var padding = side == PaddingSide.Left ? padded[row].narrow(0, 0, start) : padded[row].narrow(0, lengths[row], time - lengths[row]);
            Assert.Equal(0, padding.abs().sum().ToDouble());
        }
    }

    [Fact]
    public void AfterAPrefixAMixerIsCausalAndContinues()
    {
        const long prefix = 9;
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 24);
        var context = new MixerContext { PrefixLengths = [prefix, 4, 0] };
        if (!HonoursPrefixes)
        {
            using var untouched = mixer.CreateState(Batch);
            Assert.Throws<NotSupportedException>(() => mixer.forward(x, context with { State = untouched }));
            Assert.Equal(0, untouched.Position);
            return;
        }

        var whole = mixer.forward(x, context);
        foreach (var kept in new[] { prefix, 16, 23 })
        {
            var changed = cat([x.narrow(1, 0, kept), randn(Batch, 24 - kept, mixer.Width) * 3], 1);
            TensorAssert.Close(whole.narrow(1, 0, kept), mixer.forward(changed, context).narrow(1, 0, kept), 1e-6, $"the first {kept} tokens");
        }

        using var state = mixer.CreateState(Batch);
        var first = mixer.forward(x.narrow(1, 0, prefix), context with { State = state });
        TensorAssert.Close(whole, cat([first, mixer.forward(x.narrow(1, prefix, 24 - prefix), With(state))], 1), Tolerance, "continued");
        Assert.Throws<ArgumentException>(() => mixer.forward(x, context with { State = state }));
        Assert.Equal(24, state.Position);
    }

    [Fact]
    public void PackedRowsEqualTheirSequencesAlone()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 12);
        var ids = tensor(new long[] { 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2 }).unsqueeze(0).repeat(Batch, 1);
        var packed = mixer.forward(x, new MixerContext { SequenceIds = ids });
        foreach (var (start, length) in new[] { (0L, 4L), (4L, 6L), (10L, 2L) })
        {
            TensorAssert.Close(mixer.call(x.narrow(1, start, length)), packed.narrow(1, start, length), Tolerance, $"the sequence at {start}");
        }
    }

    [Fact]
    public void StatesFollowTheTypeOfTheWeights()
    {
        using var mixer = Make();
        mixer.to(ScalarType.Float64);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = randn(Batch, 9, mixer.Width, dtype: ScalarType.Float64);
        using var state = mixer.CreateState(Batch);
        var pieces = cat([mixer.forward(x.narrow(1, 0, 5), With(state)), mixer.forward(x.narrow(1, 5, 4), With(state))], 1);
        Assert.Equal(ScalarType.Float64, pieces.dtype);
        TensorAssert.Close(mixer.call(x), pieces, 1e-12, "float64 in two chunks");
    }

    [Fact]
    public void Bfloat16WeightsRunCloseToFloat32()
    {
        using var mixer = Make();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Input(mixer, 9);
        var expected = mixer.call(x);
        mixer.to(ScalarType.BFloat16);
        using var state = mixer.CreateState(Batch);
        var y = mixer.forward(x.to_type(ScalarType.BFloat16), With(state));
        Assert.Equal(ScalarType.BFloat16, y.dtype);

        // bfloat16 has 8 bits of mantissa; a layer rounds a handful of times.
        TensorAssert.Close(expected, y.to_type(ScalarType.Float32), 0.05, "bfloat16");
    }

    [Fact]
    public void MixedPrecisionIsCloseToFloat32AlsoInItsGradients()
    {
        const long time = 24;
        using var mixer = Make();
        using var scope = NewDisposeScope();
        var x = Input(mixer, time);
        var upstream = Input(mixer, time, seed: 22);

        // Both start from matrices that bfloat16 has exactly, so that what is compared is the computation.
        Round(mixer);
        var (expected, expectedGradients) = Results(ScalarType.Float32);
        mixer.ToMixedPrecision();
        mixer.zero_grad();
        var (y, gradients) = Results(ScalarType.BFloat16);
        Assert.Equal(ScalarType.BFloat16, y.dtype);
        Near(expected, y, 0.02, "outputs");

        // The gradient as a whole is as close as the outputs. Of its parts, small ones are differences of larger numbers, which were
        // rounded: that of D of a single head, for example, which a norm follows and makes almost nothing.
        Assert.Equal(expectedGradients.Keys.Order(StringComparer.Ordinal), gradients.Keys.Order(StringComparer.Ordinal));
        var whole = Joined(expectedGradients, gradients.Keys);
        Near(whole, Joined(gradients, gradients.Keys), 0.02, "gradients");
        var least = whole.norm().ToDouble() * 0.05;
        foreach (var (name, gradient) in gradients)
        {
            Near(expectedGradients[name], gradient, 0.1, name, least);
        }

        using var guard = no_grad();
        using var state = mixer.CreateState(Batch);
        var narrow = x.to_type(ScalarType.BFloat16);
        var pieces = new List<Tensor> { mixer.forward(narrow.narrow(1, 0, 20), With(state)) };
        for (var t = 20; t < time; t++)
        {
            pieces.Add(mixer.forward(narrow.narrow(1, t, 1), With(state)));
        }

        Near(expected, cat([.. pieces], 1), 0.02, "prefill and single steps");

        static Tensor Joined(Dictionary<string, Tensor> gradients, IEnumerable<string> names) => cat([.. names.Select(name => gradients[name].reshape(-1))], 0);

        (Tensor Y, Dictionary<string, Tensor> Gradients) Results(ScalarType dtype)
        {
            var input = x.to_type(dtype).detach().clone().requires_grad_(true);
            var output = mixer.call(input);
            (output.to_type(ScalarType.Float32) * upstream).sum().backward();
            var found = TrainedParameters(mixer).Where(entry => entry.Parameter.grad is not null)
                .ToDictionary(entry => entry.Name, entry => entry.Parameter.grad!.to_type(ScalarType.Float32));
            found.Add("x", input.grad!.to_type(ScalarType.Float32));
            return (output.detach(), found);
        }

        void Near(Tensor want, Tensor got, double tolerance, string what, double least = 1e-30)
        {
            Assert.True(got.isfinite().all().ToBoolean(), $"{RegistryName}, {what}: not finite");
            var (wide, other) = (want.to_type(ScalarType.Float64), got.to_type(ScalarType.Float64));
            var error = ((other - wide).norm() / wide.norm().clamp_min(least)).ToDouble();
            Assert.True(error <= tolerance, $"{RegistryName}, {what}: relative error {error:g3}, allowed is {tolerance}");
        }

        static void Round(SequenceMixer mixer)
        {
            using var guard = no_grad();
            foreach (var parameter in mixer.parameters())
            {
                parameter.copy_(parameter.to_type(ScalarType.BFloat16));
            }
        }
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
