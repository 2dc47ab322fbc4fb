using Hybrid.Attention;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>
/// The attention part of a <see cref="TransPointMixer"/>: <c>softmax(R(Q) R(K)^T / sqrt N) V</c> with rotary positions R. Heads of one
/// group have the same weights, so a group is computed as one head whose values stand side by side.
/// </summary>
internal sealed class SharedAttention
{
    private const long InitialCapacity = 64;

    private readonly long heads;
    private readonly long groups;
    private readonly long headWidth;
    private readonly long stateSize;
    private readonly RotaryEmbedding? rotary;
    private readonly AttentionOptions scores;

    /// <param name="options">The mixer's options, validated.</param>
    /// <param name="heads">Heads H.</param>
    /// <param name="groups">Groups G.</param>
    public SharedAttention(TransPointOptions options, long heads, long groups)
    {
        (this.heads, this.groups, headWidth, stateSize) = (heads, groups, options.HeadDim, options.DState);
        rotary = options.UseRope ? new RotaryEmbedding(options.DState, options.RopeTheta) : null;
        scores = new AttentionOptions { Mode = options.AttentionMode, ChunkSize = options.AttentionChunkSize };
    }

    /// <summary>Channels of the values of a group.</summary>
    private long GroupWidth => heads / groups * headWidth;

    /// <summary>An empty cache for sequences of at most so many tokens.</summary>
    public KeyValueState CreateCache(long batch, long maxLength, ScalarType dtype, Device device)
    {
        using var scope = NewDisposeScope();
        var capacity = Math.Min(InitialCapacity, maxLength);
        return new KeyValueState(
            zeros([batch, groups, capacity, stateSize], dtype: dtype, device: device),
            zeros([batch, groups, capacity, GroupWidth + (heads / groups)], dtype: dtype, device: device),
            maxLength,
            window: null,
            rotary?.Settings ?? "none");
    }

    /// <summary>Mixes tokens and, with a cache, writes them behind those that are there.</summary>
    /// <param name="tokens">T tokens.</param>
    /// <param name="cache">Tokens before them, or null.</param>
    /// <param name="sequenceIds">Packed rows: int64 [B, T], or null.</param>
    /// <param name="prefixLengths">Prefix of each row, at most T; null means none.</param>
    /// <returns>Output [B, T, H, K], and keys and values of all slots as the cache holds them (without one, the call's own).</returns>
    public (Tensor Mixed, Tensor Keys, Tensor Values) Attend(SharedProjections tokens, KeyValueState? cache, Tensor? sequenceIds, IReadOnlyList<long>? prefixLengths = null)
    {
        using var scope = NewDisposeScope();
        var shape = tokens.Value.shape;
        var (batch, time, device) = (shape[0], shape[1], tokens.Value.device);
        var (query, key) = (tokens.Query.transpose(1, 2), tokens.Key.transpose(1, 2));                      // [B, G, T, N]
        if (rotary is not null)
        {
            var angles = rotary.Angles(KeyVisibility.Consecutive(cache?.Positions ?? [0], time, device));
            (query, key) = (rotary.Rotate(query, angles), rotary.Rotate(key, angles));
        }

        var visible = new KeyVisibility(cache?.Positions ?? [0], time, window: null, sequenceIds, device, prefixLengths);
        var stored = tokens.Value.reshape(batch, time, groups, GroupWidth).transpose(1, 2);
        if (cache is not null)
        {
            var steps = tokens.Step.reshape(batch, time, groups, heads / groups).transpose(1, 2);
            (key, stored) = cache.Append(key, cat([stored, steps], -1));
        }

        var mixed = ScaledDotProduct.Apply(query, key, stored.narrow(-1, 0, GroupWidth), visible, scores, dropout: 0);
        return (
            mixed.transpose(1, 2).reshape(shape).MoveToOuterDisposeScope(),
            key.MoveToOuterDisposeScope(),
            stored.MoveToOuterDisposeScope());
    }

    /// <summary>Keys, values and step sizes out of the slots of a cache, as the projections made them.</summary>
    /// <param name="keys">Keys [B, G, S, N] after rotary embedding.</param>
    /// <param name="values">Values and steps [B, G, S, H/G (K + 1)].</param>
    /// <param name="precision">The dtype of the results.</param>
    /// <returns>Keys [B, S, G, N], values [B, S, H, K] and steps [B, S, H].</returns>
    public (Tensor Keys, Tensor Values, Tensor Steps) Recall(Tensor keys, Tensor values, ScalarType precision)
    {
        using var scope = NewDisposeScope();
        var shape = keys.shape;
        var (batch, slots) = (shape[0], shape[2]);
        var key = keys.to_type(precision);
        if (rotary is not null)
        {
            // The inverse of the rotation as it was rounded: dividing by cos^2 + sin^2 makes it exact in every dtype.
            var (cos, sin) = rotary.Angles(KeyVisibility.Consecutive([0], slots, keys.device));
            (cos, sin) = (cos.to_type(keys.dtype).to_type(precision), sin.to_type(keys.dtype).to_type(precision));
            var norm = cos.square() + sin.square();
            key = rotary.Rotate(key, (cos / norm, sin.neg() / norm));
        }

        var value = values.narrow(-1, 0, GroupWidth).transpose(1, 2).reshape(batch, slots, heads, headWidth).to_type(precision);
        var step = values.narrow(-1, GroupWidth, heads / groups).transpose(1, 2).reshape(batch, slots, heads).to_type(precision);
        return (key.transpose(1, 2).MoveToOuterDisposeScope(), value.MoveToOuterDisposeScope(), step.MoveToOuterDisposeScope());
    }
}
