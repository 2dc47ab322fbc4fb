using Hybrid.Attention;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

public class KeyValueStateTests
{
    private const long Width = 8;

    [Fact]
    public void BuffersDoubleWhenFull()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 4, NumKeyValueHeads = 2 });
        using var state = (KeyValueState)mixer.CreateState(3);
        Assert.Equal(64, state.Capacity);
        foreach (var (tokens, capacity) in new[] { (64, 64), (1, 128), (63, 128), (1, 256), (400, 529) })
        {
            Step(mixer, state, tokens);
            Assert.Equal(capacity, state.Capacity);
        }

        // 529 tokens are more than twice 256, so the buffers are exactly as long as needed: 2 buffers of 3 x 2 x 529 x 2 floats.
        Assert.Equal(529, state.Position);
        Assert.Equal(2 * 3 * 2 * 529 * 2 * sizeof(float), state.ByteSize);
        Assert.Equal([3, 2, 529, 2], state.Keys.shape);
    }

    [Fact]
    public void GrowthKeepsWhatIsThere()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2 });
        using var state = (KeyValueState)mixer.CreateState(1);
        Step(mixer, state, 64);
        var (keys, values) = (state.Keys.clone(), state.Values.clone());
        Step(mixer, state, 5);
        TensorAssert.Identical(keys, state.Keys.narrow(2, 0, 64), "keys");
        TensorAssert.Identical(values, state.Values.narrow(2, 0, 64), "values");
        Assert.True(state.Keys.narrow(2, 64, 5).abs().sum().ToDouble() > 0);
    }

    [Theory]
    [InlineData(5, 5)]
    [InlineData(64, 64)]
    [InlineData(100, 64)]
    public void MaxLengthBoundsTheSequenceAndTheBuffers(long maxLength, long initialCapacity)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2, MaxLength = maxLength });
        using var state = (KeyValueState)mixer.CreateState(2);
        Assert.Equal(initialCapacity, state.Capacity);
        Step(mixer, state, 4);
        Step(mixer, state, maxLength - 4);
        Assert.Equal(maxLength, state.Capacity);

        var error = Assert.Throws<InvalidOperationException>(() => Step(mixer, state, 1));
        Assert.Equal($"KeyValueState: the sequence would have {maxLength + 1} tokens; max_length is {maxLength}.", error.Message);
        Assert.Equal(maxLength, state.Position);
        state.Trim(maxLength - 1);
        Step(mixer, state, 1);
        Assert.Equal(maxLength, state.Position);
    }

    [Fact]
    public void PaddingDoesNotCountAgainstTheLimit()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2, MaxLength = 8 });
        using var state = mixer.CreateState(2);
        mixer.forward(Values.Normal(1, 2, 6, Width), new MixerContext { State = state, Lengths = [6, 2] });
        mixer.forward(Values.Normal(2, 2, 5, Width), new MixerContext { State = state, Lengths = [2, 5] });
        Assert.Equal([8, 7], state.Positions);
        var refused = new MixerContext { State = state, Lengths = [1, 1] };
        Assert.Throws<InvalidOperationException>(() => mixer.forward(Values.Normal(3, 2, 1, Width), refused));
    }

    [Fact]
    public void TheLimitIsOfStatesNotOfPlainCalls()
    {
        using var scope = NewDisposeScope();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2, MaxLength = 3 });
        Assert.Equal([1, 7, Width], mixer.call(Values.Normal(1, 1, 7, Width)).shape);
    }

    [Fact]
    public void TrimCutsEveryRowToThePosition()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2 });
        using var state = (KeyValueState)mixer.CreateState(3);
        var x = Values.Normal(1, 3, 6, Width);
        mixer.forward(x, new MixerContext { State = state, Lengths = [6, 2, 4] });
        Assert.Throws<ArgumentOutOfRangeException>(() => state.Trim(7));
        Assert.Throws<ArgumentOutOfRangeException>(() => state.Trim(-1));
        Assert.Equal([6, 2, 4], state.Positions);
        state.Trim(3);
        Assert.Equal([3, 2, 3], state.Positions);
        Assert.False(state.IsUniform);

        var next = Values.Normal(2, 3, 2, Width);
        var continued = mixer.forward(next, new MixerContext { State = state });
        for (var row = 0; row < 3; row++)
        {
            var kept = Math.Min(3, new[] { 6, 2, 4 }[row]);
            var whole = mixer.call(cat([x.narrow(0, row, 1).narrow(1, 0, kept), next.narrow(0, row, 1)], 1));
            TensorAssert.Close(whole.narrow(1, kept, 2), continued.narrow(0, row, 1), 1e-5, $"row {row}");
        }

        state.Trim(0);
        Assert.Equal([0, 0, 0], state.Positions);
        TensorAssert.Close(mixer.call(x), mixer.forward(x, new MixerContext { State = state }), 1e-5, "from the start");
    }

    [Fact]
    public void ATrimmedCloneLeavesTheOriginalAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2 });
        using var state = (KeyValueState)mixer.CreateState(1);
        Step(mixer, state, 6);
        var keys = state.Keys.clone();
        using var clone = state.Clone();
        clone.Trim(2);
        mixer.forward(Values.Normal(9, 1, 4, Width), new MixerContext { State = clone });
        Assert.Equal(6, state.Position);
        TensorAssert.Identical(keys, state.Keys, "keys of the original");
    }

    [Fact]
    public void AWindowBoundsTheBuffers()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2, WindowSize = 10 });
        using var state = (KeyValueState)mixer.CreateState(3);
        foreach (var tokens in new[] { 4, 1, 5, 1, 100, 1, 1, 12, 1 })
        {
            Step(mixer, state, tokens);
            Assert.True(state.Capacity <= 10, $"{state.Capacity} slots after {state.Position} tokens");
        }

        Assert.Equal(126, state.Position);
        Assert.Equal([3, 2, 10, 4], state.Keys.shape);
        Assert.Equal(2 * 3 * 2 * 10 * 4 * sizeof(float), state.ByteSize);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(7)]
    public void RowsApartDropTheirOwnTokens(long window)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2, WindowSize = window });
        using var state = mixer.CreateState(2);
        var x = Values.Normal(1, 2, 40, Width);
        var whole = mixer.call(x);
        var (first, second) = (0L, 0L);
        foreach (var (a, b) in new[] { (5, 2), (1, 1), (3, 9), (1, 1), (6, 1), (1, 1), (1, 8), (1, 1) })
        {
            var longest = Math.Max(a, b);
            var input = cat([x.narrow(0, 0, 1).narrow(1, first, longest), x.narrow(0, 1, 1).narrow(1, second, longest)], 0);
            var output = mixer.forward(input, new MixerContext { State = state, Lengths = [a, b] });
            TensorAssert.Close(whole[0].narrow(0, first, a), output[0].narrow(0, 0, a), 1e-5, $"row 0 at {first}");
            TensorAssert.Close(whole[1].narrow(0, second, b), output[1].narrow(0, 0, b), 1e-5, $"row 1 at {second}");
            (first, second) = (first + a, second + b);
        }
    }

    [Fact]
    public void TrimRefusesOnceTheWindowHasDroppedTokens()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2, WindowSize = 6 });
        using var state = (KeyValueState)mixer.CreateState(1);
        Step(mixer, state, 6);
        Assert.True(state.CanTrim);
        state.Trim(3);
        Step(mixer, state, 4);
        Assert.False(state.CanTrim);
        var error = Assert.Throws<NotSupportedException>(() => state.Trim(5));
        Assert.StartsWith("KeyValueState: the window of 6 has dropped tokens", error.Message, StringComparison.Ordinal);
        Assert.Equal(7, state.Position);
    }

    private static void Step(MultiHeadAttention mixer, KeyValueState state, long tokens)
    {
        using var scope = NewDisposeScope();
        mixer.forward(Values.Normal((ulong)(state.Position + 1), state.BatchSize, tokens, Width), new MixerContext { State = state });
    }
}
