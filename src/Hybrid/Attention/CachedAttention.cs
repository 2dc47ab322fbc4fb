using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>What attention layers do between their projections: turn queries and keys, extend the cache, mix the values.</summary>
internal static class CachedAttention
{
    /// <summary>Attends from the tokens of a call to those of the cache and their own.</summary>
    /// <param name="query">[B, H, T, K], not turned yet; nobody else reads it.</param>
    /// <param name="key">[B, G, T, K], not turned yet; G divides H. Nobody else reads it.</param>
    /// <param name="value">[B, G, T, K].</param>
    /// <param name="options">Window, scale, soft cap, mode, dropout.</param>
    /// <param name="rotary">Turns queries and keys; null leaves them.</param>
    /// <param name="batch">The call.</param>
    /// <param name="context">Its context.</param>
    /// <param name="state">The cache, with room for the call; it is advanced. Null carries none.</param>
    /// <param name="training">Whether the attention weights are dropped at the options' rate.</param>
    /// <returns>[B, T, H K].</returns>
    public static Tensor Apply(
        Tensor query,
        Tensor key,
        Tensor value,
        AttentionOptions options,
        RotaryEmbedding? rotary,
        MixerBatch batch,
        MixerContext context,
        KeyValueState? state,
        bool training)
    {
        if (rotary is not null)
        {
            (query, key) = rotary.TurnConsecutive(query, key, state?.Positions);
        }

        var visible = new KeyVisibility(
            state?.Visible ?? [0], batch.Length, options.WindowSize, context.SequenceIds, batch.Input.device, context.PrefixLengths);
        var (allKeys, allValues) = state?.Append(key, value) ?? (key, value);
        var mixed = ScaledDotProduct.Apply(query, allKeys, allValues, visible, options, training ? options.DropoutRate : 0);
        state?.Advance(key, value, batch.Lengths);
        return mixed.transpose(1, 2).reshape(batch.Size, batch.Length, -1);
    }
}
