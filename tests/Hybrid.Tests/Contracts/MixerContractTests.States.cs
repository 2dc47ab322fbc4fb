using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Contracts;

/// <content>What a state must do: continue its sequences exactly, alone, chosen, trimmed and reloaded.</content>
public abstract partial class MixerContractTests
{
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
}
