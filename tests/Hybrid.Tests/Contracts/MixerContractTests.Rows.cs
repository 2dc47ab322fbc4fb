using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Contracts;

/// <content>What rows of several lengths, prefixes and several sequences must be: the same as each sequence alone.</content>
public abstract partial class MixerContractTests
{
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
}
