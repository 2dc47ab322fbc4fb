using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>
/// Some consecutive queries and the keys they can see. Query heads that share a key head stand in line as more queries of it,
/// [B, G, (H / G) T, K], so that keys and values are never repeated in memory.
/// </summary>
internal readonly struct AttentionBlock
{
    private readonly AttentionOptions options;
    private readonly KeyVisibility visible;
    private readonly long firstQuery;
    private readonly long queries;
    private readonly long firstKey;
    private readonly long keys;
    private readonly long heads;
    private readonly long groups;
    private readonly Tensor query;
    private readonly Tensor key;
    private readonly Tensor value;

    private AttentionBlock(
        Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, long firstQuery, long queries)
    {
        var shape = query.shape;
        (this.visible, this.options, this.firstQuery, this.queries, this.key, this.value) = (visible, options, firstQuery, queries, key, value);
        (heads, groups, Scale) = (shape[1], shape[1] / key.size(1), options.Scale ?? (1 / Math.Sqrt(shape[3])));
        (firstKey, var end) = visible.KeysOf(firstQuery, queries);
        keys = end - firstKey;
        this.query = query;
    }

    /// <summary>Factor of the scores.</summary>
    public double Scale { get; }

    /// <summary>Cuts the queries of a call into blocks of <paramref name="chunk"/>.</summary>
    public static IEnumerable<AttentionBlock> Split(
        Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, long chunk)
    {
        var time = query.size(2);
        for (var first = 0L; first < time; first += chunk)
        {
            yield return new AttentionBlock(query, key, value, visible, options, first, Math.Min(chunk, time - first));
        }
    }

    /// <summary>The fused operation of the backend.</summary>
    public Tensor Fused(double dropout)
    {
        var (seenKey, seenValue) = (key.narrow(2, firstKey, keys), value.narrow(2, firstKey, keys));
        var grouped = Group(query);
        var scaled = options.Scale is null ? grouped : grouped * (Scale * Math.Sqrt(query.size(-1)));
        if (groups == 1 && visible.IsTriangular(firstQuery, queries))
        {
            return functional.scaled_dot_product_attention(scaled, seenKey, seenValue, p: dropout, is_casual: queries > 1);
        }

        var mask = Mask(firstKey, keys);
        return Ungroup(functional.scaled_dot_product_attention(scaled, seenKey, seenValue, mask, dropout));
    }

    /// <summary>Softmax over explicit scores, which the fused operation cannot cap.</summary>
    public Tensor Capped(double dropout)
    {
        var weights = functional.dropout(MaskedScores(ScaledQuery(), firstKey, keys).softmax(-1), dropout);
        return Ungroup(weights.matmul(Values(firstKey, keys))).to_type(value.dtype);
    }

    /// <summary>The keys that the block can see, in chunks.</summary>
    public IEnumerable<(long First, long Count)> KeyChunks(long chunk)
    {
        for (var first = firstKey; first < firstKey + keys; first += chunk)
        {
            yield return (first, Math.Min(chunk, firstKey + keys - first));
        }
    }

    /// <summary>The queries of the block, grouped and times the scale: [B, G, (H / G) T, K], float32 at least.</summary>
    public Tensor ScaledQuery() => Wide(Group(query)) * Scale;

    /// <summary>Capped scores [B, G, (H / G) T, count] for some of the keys, minus infinity where invisible.</summary>
    /// <param name="scaledQuery"><see cref="ScaledQuery"/>, which is the same for all keys.</param>
    /// <param name="first">The first key.</param>
    /// <param name="count">Keys from there.</param>
    public Tensor MaskedScores(Tensor scaledQuery, long first, long count) => Masked(Scores(scaledQuery, first, count), first, count);

    /// <summary>Capped scores, the invisible ones too.</summary>
    public Tensor Scores(Tensor scaledQuery, long first, long count)
    {
        var scores = scaledQuery.matmul(Keys(first, count).transpose(-2, -1));
        return options.SoftCap is { } cap ? (scores / cap).tanh() * cap : scores;
    }

    /// <summary>The scores with minus infinity where the key is invisible.</summary>
    public Tensor Masked(Tensor scores, long first, long count) =>
        Mask(first, count) is { } mask ? scores.masked_fill(mask.logical_not(), double.NegativeInfinity) : scores;

    /// <summary>Keys [B, G, count, K], float32 at least.</summary>
    public Tensor Keys(long first, long count) => Wide(key.narrow(2, first, count));

    /// <summary>Values [B, G, count, V], float32 at least.</summary>
    public Tensor Values(long first, long count) => Wide(value.narrow(2, first, count));

    /// <summary>What belongs to the queries of the block out of [B, H, T, any]: [B, G, (H / G) T, any].</summary>
    public Tensor Group(Tensor x)
    {
        var shape = x.shape;
        return x.narrow(2, firstQuery, queries).reshape(shape[0], heads / groups, groups * queries, shape[3]);
    }

    /// <summary>[B, G, (H / G) T, any] to [B, H, T, any].</summary>
    public Tensor Ungroup(Tensor x)
    {
        var shape = x.shape;
        return x.view(shape[0], heads, queries, shape[3]);
    }

    /// <summary>Explicit scores, and what is added up in chunks, are float32 at least.</summary>
    public static Tensor Wide(Tensor x) => x.dtype == ScalarType.Float64 ? x : x.to_type(ScalarType.Float32);

    /// <summary>Bool [B or 1, 1, (H / G) T, count], true where visible; null where all is.</summary>
    private Tensor? Mask(long first, long count) => visible.Mask(firstQuery, queries, first, count)?.repeat(1, 1, groups, 1);
}
