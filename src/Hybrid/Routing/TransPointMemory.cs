using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>
/// The memory converter of TransMamba (arXiv 2503.24067, section 3.3): the recurrent state that the keys and values of attention stand
/// for, <c>h = sum_t exp(sum_(s &gt; t) delta_s A) delta_t V_t K_t^T</c>. It is exact: the recurrence
/// <c>h_t = exp(delta_t A) h_(t-1) + delta_t V_t K_t^T</c> run over the same tokens ends in the same state.
/// </summary>
public static class TransPointMemory
{
    /// <summary>Folds keys and values into a state.</summary>
    /// <param name="keys">Keys [B, S, G, N] without rotary positions; G divides H.</param>
    /// <param name="values">Values [B, S, H, K], S at least 1.</param>
    /// <param name="steps">Step sizes delta [B, S, H], after bias and softplus; zero leaves a token out.</param>
    /// <param name="decay">Continuous-time decay A [H], negative.</param>
    /// <returns>The state after the last token [B, H, K, N] in the dtype of <paramref name="steps"/>.</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static Tensor Convert(Tensor keys, Tensor values, Tensor steps, Tensor decay)
    {
        var (key, value) = (keys.shape, values.shape);
        Validate(key, value, steps.shape, decay.shape);
        using var scope = NewDisposeScope();
        var (batch, time, heads, headWidth) = (value[0], value[1], value[2], value[3]);
        var (groups, state) = (key[2], key[3]);

        // Sums from each token's own end of the sequence: differences of one running sum would lose the small ones beside the large.
        var logDecay = steps * decay;
        var after = cat([logDecay.narrow(1, 1, time - 1), zeros_like(logDecay.narrow(1, 0, 1))], 1).flip(1).cumsum(1).flip(1);
        var driven = values.to_type(steps.dtype) * (after.exp() * steps).unsqueeze(-1);                     // [B, S, H, K]
        var byGroup = driven.reshape(batch, time, groups, heads / groups * headWidth).permute(0, 2, 3, 1);  // [B, G, H/G K, S]
        return byGroup.matmul(keys.to_type(steps.dtype).transpose(1, 2)).view(batch, heads, headWidth, state).MoveToOuterDisposeScope();
    }

    private static void Validate(long[] keys, long[] values, long[] steps, long[] decay)
    {
        if (values is not [>= 1, >= 1, >= 1, >= 1])
        {
            throw Mismatch("values", "[B, S, H, K], all at least 1", values);
        }

        if (keys is not [var batch, var time, >= 1, >= 1] || batch != values[0] || time != values[1] || values[2] % keys[2] != 0)
        {
            throw Mismatch("keys", $"[{values[0]}, {values[1]}, G, N] with G dividing {values[2]}", keys);
        }

        if (!steps.AsSpan().SequenceEqual(values.AsSpan(0, 3)))
        {
            throw Mismatch("steps", $"[{values[0]}, {values[1]}, {values[2]}]", steps);
        }

        if (!decay.AsSpan().SequenceEqual([values[2]]))
        {
            throw Mismatch("decay", $"[{values[2]}]", decay);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"TransPointMemory: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
