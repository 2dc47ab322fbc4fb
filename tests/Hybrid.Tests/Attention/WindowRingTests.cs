using Hybrid.Attention;
using Hybrid.Tests.Checkpoints;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

/// <summary>The cache of a window: a ring of w slots, token p in slot p mod w.</summary>
public class WindowRingTests
{
    private const long Width = 8;
    private const double Tolerance = 1e-5;

    [Fact]
    public void AStepWritesOneSlotOfEachRow()
    {
        const long Window = 7;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(Window);
        using var state = (KeyValueState)mixer.CreateState(2);
        mixer.forward(Values.Normal(1, 2, 20, Width), new MixerContext { State = state, Lengths = [20, 9] });
        for (var step = 0; step < 17; step++)
        {
            var before = state.Positions.ToArray();
            var (keys, values) = (state.Keys.clone(), state.Values.clone());
            mixer.forward(Values.Normal((ulong)step + 2, 2, 1, Width), new MixerContext { State = state });
            for (var row = 0; row < 2; row++)
            {
                foreach (var (old, now) in new[] { (keys[row], state.Keys[row]), (values[row], state.Values[row]) })
                {
                    var changed = old.ne(now).any(2).any(0);
                    for (var slot = 0; slot < Window; slot++)
                    {
                        Assert.Equal(slot == before[row] % Window, changed[slot].ToBoolean());
                    }
                }
            }
        }
    }

    [Fact]
    public void StepsKeepTheBuffersWhereTheyAre()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(100);
        using var state = (KeyValueState)mixer.CreateState(1);
        mixer.forward(Values.Normal(1, 1, 130, Width), new MixerContext { State = state });
        var buffers = state.NamedTensors.Select(entry => entry.Tensor).ToArray();
        for (var step = 0; step < 5; step++)
        {
            mixer.forward(Values.Normal(2, 1, 1, Width), new MixerContext { State = state });
        }

        Assert.Equal(100, state.Capacity);
        Assert.All(state.NamedTensors.Zip(buffers), pair => Assert.Same(pair.Second, pair.First.Tensor));
    }

    [Theory]
    [InlineData(AttentionMode.Dense)]
    [InlineData(AttentionMode.Chunked)]
    [InlineData(AttentionMode.Online)]
    public void CallsOfAnyLengthEqualTheWholeSequence(AttentionMode mode)
    {
        int[] lengths = [1, 1, 3, 70, 1, 2, 64, 1, 1, 1, 5, 130, 1, 63, 65, 1];
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Values.Normal(1, 2, lengths.Sum(), Width);
        foreach (var window in new long[] { 1, 2, 5, 64, 65, 100 })
        {
            using var mixer = Make(window, mode);
            using var state = mixer.CreateState(2);
            var start = 0L;
            var pieces = new List<Tensor>();
            foreach (var length in lengths)
            {
                pieces.Add(mixer.forward(x.narrow(1, start, length), new MixerContext { State = state }));
                start += length;
            }

            TensorAssert.Close(mixer.call(x), cat(pieces, 1), Tolerance, $"window {window}");
        }
    }

    [Fact]
    public void PaddingOverwritesNothing()
    {
        // Row 1 takes one real token from each call; the padding behind it would lap the ring several times.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(6);
        using var state = mixer.CreateState(2);
        var x = Values.Normal(1, 2, 160, Width);
        var whole = mixer.call(x);
        for (var call = 0; call < 8; call++)
        {
            var input = cat([x.narrow(0, 0, 1).narrow(1, 20 * call, 20), x.narrow(0, 1, 1).narrow(1, call, 20)], 0);
            var y = mixer.forward(input, new MixerContext { State = state, Lengths = [20, 1] });
            TensorAssert.Close(whole[0].narrow(0, 20 * call, 20), y[0], Tolerance, $"row 0, call {call}");
            TensorAssert.Close(whole[1].narrow(0, call, 1), y[1].narrow(0, 0, 1), Tolerance, $"row 1, call {call}");
        }
    }

    [Fact]
    public void CopiesSelectionsAndFilesKeepTheRing()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(6);
        using var state = mixer.CreateState(3);
        mixer.forward(Values.Normal(1, 3, 17, Width), new MixerContext { State = state, Lengths = [17, 3, 8] });
        using var clone = state.Clone();
        using var selected = state.Select([2, 1, 0]);
        using var loaded = mixer.CreateState(3);
        state.Save(folder.File("state.safetensors"));
        loaded.Load(folder.File("state.safetensors"));

        var reversed = tensor(new long[] { 2, 1, 0 });
        foreach (var length in new[] { 1, 4, 1, 9, 1 })
        {
            var x = Values.Normal((ulong)length, 3, length, Width);
            var expected = mixer.forward(x, new MixerContext { State = state });
            TensorAssert.Identical(expected, mixer.forward(x, new MixerContext { State = clone }), "clone");
            TensorAssert.Identical(expected, mixer.forward(x, new MixerContext { State = loaded }), "loaded");
            var turned = mixer.forward(x.index_select(0, reversed), new MixerContext { State = selected });
            TensorAssert.Close(expected.index_select(0, reversed), turned, 1e-6, "selected");
        }
    }

    [Fact]
    public void RecordedCallsLeaveTheStateAndTheGradientsOfPlainOnes()
    {
        // Gradients of a call after a carried state are those of the whole sequence where the earlier tokens are constants.
        // Both kinds of calls multiply by the same kernel, so that their states are the same bit for bit.
        int[] lengths = [5, 1, 4, 1, 9, 1];
        using var kernels = new KernelChoice(referenceOnly: true);
        using var scope = NewDisposeScope();
        using var mixer = Make(6);
        var x = Values.Normal(1, 2, lengths.Sum(), Width);
        using var recorded = mixer.CreateState(2);
        using var plain = mixer.CreateState(2);
        var start = 0L;
        foreach (var length in lengths)
        {
            var input = x.narrow(1, start, length).clone().requires_grad_(true);
            var weights = Values.Normal(2, 2, length, Width);
            (mixer.forward(input, new MixerContext { State = recorded }) * weights).sum().backward();
            using (no_grad())
            {
                mixer.forward(input, new MixerContext { State = plain });
            }

            foreach (var ((name, expected), (_, actual)) in plain.NamedTensors.Zip(recorded.NamedTensors))
            {
                TensorAssert.Identical(expected, actual, $"{name} after {start + length} tokens");
            }

            var tail = x.narrow(1, start, length).clone().requires_grad_(true);
            var whole = mixer.call(cat([x.narrow(1, 0, start), tail], 1));
            (whole.narrow(1, start, length) * weights).sum().backward();
            TensorAssert.Close(tail.grad!, input.grad!, Tolerance, $"gradient at {start}");
            start += length;
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void ACallThatFailsBeforeItIsCountedMayBeRepeated(long count)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(6);
        using var state = (KeyValueState)mixer.CreateState(1);
        mixer.forward(Values.Normal(1, 1, 15, Width), new MixerContext { State = state });
        using var clone = state.Clone();
        state.Append(Values.Normal(2, 1, 2, count, 4), Values.Normal(3, 1, 2, count, 4));

        var x = Values.Normal(4, 1, count, Width);
        var expected = mixer.forward(x, new MixerContext { State = clone });
        TensorAssert.Identical(expected, mixer.forward(x, new MixerContext { State = state }), "repeated");
    }

    private static MultiHeadAttention Make(long window, AttentionMode mode = AttentionMode.Dense)
    {
        manual_seed(3);
        return new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2, WindowSize = window, Mode = mode });
    }
}
