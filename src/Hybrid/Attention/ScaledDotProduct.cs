using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>How attention scores are computed. All modes give the same numbers.</summary>
public enum AttentionMode
{
    /// <summary>All queries at once: memory T x S where no fused operation applies.</summary>
    Dense,

    /// <summary>One chunk of queries after the other: memory C x S, or C x (w + C) with a window.</summary>
    Chunked,

    /// <summary>
    /// Chunks of queries over chunks of keys with a running softmax (Milakov and Gimelshein, arXiv 1805.02867; Rabe and Staats,
    /// arXiv 2112.05682): memory C x C for the scores. While autograd records, it keeps the scores of all visible chunks.
    /// </summary>
    Online,
}

/// <summary>
/// Causal attention <c>softmax(cap(scale Q K^T)) V</c> over the visible keys, with <c>cap(s) = c tanh(s / c)</c> where a soft cap is set.
/// </summary>
internal static class ScaledDotProduct
{
    // A finite stand-in for minus infinity as the first running maximum, so that differences from it are never NaN.
    private const double LowestMaximum = -1e30;

    /// <summary>Mixes values.</summary>
    /// <param name="query">[B, H, T, K].</param>
    /// <param name="key">[B, G, S, K]; the H / G consecutive query heads of a group share a key head.</param>
    /// <param name="value">[B, G, S, V].</param>
    /// <param name="visible">Which keys each query sees; every query sees at least one of the S.</param>
    /// <param name="options">Scale, soft cap, mode and chunk size.</param>
    /// <param name="dropout">Share of the attention weights to drop.</param>
    /// <returns>[B, H, T, V] in the dtype of the values.</returns>
    public static Tensor Apply(Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, double dropout)
    {
        using var scope = NewDisposeScope();
        var time = query.size(2);
        var chunk = options.Mode == AttentionMode.Dense ? time : options.ChunkSize;
        var pieces = new List<Tensor>();
        for (var first = 0L; first < time; first += chunk)
        {
            using var inner = NewDisposeScope();
            var block = new Block(query, key, value, visible, options, dropout, first, Math.Min(chunk, time - first));
            var piece = options.Mode == AttentionMode.Online ? block.Online() : options.SoftCap is null ? block.Fused() : block.Capped();
            pieces.Add(piece.MoveToOuterDisposeScope());
        }

        return (pieces.Count == 1 ? pieces[0] : cat(pieces, 2)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Some consecutive queries and the keys they can see. Query heads that share a key head stand in line as more queries of it,
    /// [B, G, (H / G) T, K], so that keys and values are never repeated in memory.
    /// </summary>
    private readonly struct Block
    {
        private readonly AttentionOptions options;
        private readonly KeyVisibility visible;
        private readonly double dropout;
        private readonly double scale;
        private readonly long firstQuery;
        private readonly long queries;
        private readonly long firstKey;
        private readonly long keys;
        private readonly long heads;
        private readonly long groups;
        private readonly Tensor query;
        private readonly Tensor key;
        private readonly Tensor value;

        public Block(
            Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, double dropout, long firstQuery, long queries)
        {
            var shape = query.shape;
            (this.visible, this.options, this.dropout, this.firstQuery, this.queries) = (visible, options, dropout, firstQuery, queries);
            (heads, groups, scale) = (shape[1], shape[1] / key.size(1), options.Scale ?? (1 / Math.Sqrt(shape[3])));
            (firstKey, var end) = visible.KeysOf(firstQuery, queries);
            keys = end - firstKey;
            this.query = query.narrow(2, firstQuery, queries).reshape(shape[0], heads / groups, groups * queries, shape[3]);
            this.key = key.narrow(2, firstKey, keys);
            this.value = value.narrow(2, firstKey, keys);
        }

        /// <summary>The fused operation of the backend.</summary>
        public Tensor Fused()
        {
            var width = query.size(-1);
            var scaled = options.Scale is null ? query : query * (scale * Math.Sqrt(width));
            if (groups == 1 && visible.IsTriangular(firstQuery, queries))
            {
                return functional.scaled_dot_product_attention(scaled, key, value, p: dropout, is_casual: queries > 1);
            }

            var mask = visible.Mask(firstQuery, queries, firstKey, keys)?.repeat(1, 1, groups, 1);
            return Ungroup(functional.scaled_dot_product_attention(scaled, key, value, mask, dropout));
        }

        /// <summary>Softmax over explicit scores, which the fused operation cannot cap.</summary>
        public Tensor Capped()
        {
            var weights = functional.dropout(Scores(0, keys).softmax(-1), dropout);
            return Ungroup(weights.matmul(Wide(value))).to_type(value.dtype);
        }

        /// <summary>
        /// Over chunks of keys with scores s: <c>m' = max(m, max s)</c>, <c>l' = e^(m - m') l + sum e^(s - m')</c>,
        /// <c>o' = e^(m - m') o + e^(s - m') V</c>; the result is o / l.
        /// </summary>
        public Tensor Online()
        {
            var shape = query.shape;
            var type = Wide(query).dtype;
            var maximum = full([shape[0], shape[1], shape[2], 1], LowestMaximum, dtype: type, device: query.device);
            var sum = zeros_like(maximum);
            var mixed = zeros([shape[0], shape[1], shape[2], value.size(3)], dtype: type, device: query.device);
            for (var first = 0L; first < keys; first += options.ChunkSize)
            {
                using var inner = NewDisposeScope();
                var count = Math.Min(options.ChunkSize, keys - first);
                var scores = Scores(first, count);

                // The result does not depend on the maximum, so neither does the gradient.
                var next = maximum.maximum(scores.detach().amax([-1], keepdim: true));
                var decay = (maximum - next).exp();
                var weights = (scores - next).exp();
                sum = ((sum * decay) + weights.sum(-1, keepdim: true)).MoveToOuterDisposeScope();
                var added = functional.dropout(weights, dropout).matmul(Wide(value.narrow(2, first, count)));
                mixed = ((mixed * decay) + added).MoveToOuterDisposeScope();
                maximum = next.MoveToOuterDisposeScope();
            }

            return Ungroup(mixed / sum).to_type(value.dtype);
        }

        /// <summary>Capped scores [B, G, (H / G) T, count] for some of the keys, minus infinity where invisible.</summary>
        private Tensor Scores(long first, long count)
        {
            var scores = (Wide(query) * scale).matmul(Wide(key.narrow(2, first, count)).transpose(-2, -1));
            if (options.SoftCap is { } cap)
            {
                scores = (scores / cap).tanh() * cap;
            }

            var mask = visible.Mask(firstQuery, queries, firstKey + first, count);
            return mask is null ? scores : scores.masked_fill(mask.repeat(1, 1, groups, 1).logical_not(), double.NegativeInfinity);
        }

        private Tensor Ungroup(Tensor mixed) => mixed.view(mixed.size(0), heads, queries, mixed.size(3));

        /// <summary>Explicit scores are float32 at least.</summary>
        private static Tensor Wide(Tensor x) => x.dtype == ScalarType.Float64 ? x : x.to_type(ScalarType.Float32);
    }
}
