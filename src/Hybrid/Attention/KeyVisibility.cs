using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>
/// Which keys each query of a call sees: with p the place of the query's own key, those at <c>p - w &lt; j &lt;= p</c> that belong to its
/// packed sequence, and from a prefix of P tokens, all at <c>j &lt; P</c>. The places are known without asking the device, so blocks that no
/// query sees are left out unseen.
/// </summary>
internal sealed class KeyVisibility
{
    private readonly long lowestStart;
    private readonly long highestStart;
    private readonly long longestPrefix;
    private readonly long? window;
    private readonly Tensor placesOfQueries;
    private readonly Tensor? sequenceIds;
    private readonly Tensor? prefixes;

    /// <param name="starts">Keys before the first query of each row; one entry where the rows agree or there is no state.</param>
    /// <param name="time">Queries T of a row.</param>
    /// <param name="window">Keys w that a query sees, its own counted; null means all before it.</param>
    /// <param name="sequenceIds">Int64 [B, T] of packed rows, whose queries and keys are the same tokens; null means one sequence a row.</param>
    /// <param name="device">Device of the queries.</param>
    /// <param name="prefixLengths">Prefix P of each row, above 0 only where the row has no keys before its queries; null means none.</param>
    public KeyVisibility(
        IReadOnlyList<long> starts, long time, long? window, Tensor? sequenceIds, Device device, IReadOnlyList<long>? prefixLengths = null)
    {
        (lowestStart, highestStart, longestPrefix) = (starts.Min(), starts.Max(), prefixLengths?.Max() ?? 0);
        (this.window, this.sequenceIds) = (window, sequenceIds);
        placesOfQueries = Consecutive(starts, time, device);
        prefixes = longestPrefix > 0 ? tensor(prefixLengths!.ToArray(), dtype: ScalarType.Int64).to(device).view(-1, 1, 1) : null;
    }

    private KeyVisibility(KeyVisibility other, IReadOnlyList<Tensor> tensors)
    {
        (lowestStart, highestStart, longestPrefix, window) = (other.lowestStart, other.highestStart, other.longestPrefix, other.window);
        placesOfQueries = tensors[0];
        sequenceIds = other.sequenceIds is null ? null : tensors[1];
        prefixes = other.prefixes is null ? null : tensors[^1];
    }

    /// <summary>Its tensors, for a backward pass to save, which may come when those of the forward pass are gone.</summary>
    public IReadOnlyList<Tensor> Tensors => [.. new[] { placesOfQueries, sequenceIds, prefixes }.OfType<Tensor>()];

    /// <summary>The same over saved tensors.</summary>
    /// <param name="saved">Like <see cref="Tensors"/>.</param>
    /// <returns>A visibility that owns none of them.</returns>
    public KeyVisibility With(IReadOnlyList<Tensor> saved) => new(this, saved);

    /// <summary>Int64 [1, T] of T numbers from a start, or [B, T] where rows start apart.</summary>
    public static Tensor Consecutive(IReadOnlyList<long> starts, long time, Device device)
    {
        using var scope = NewDisposeScope();
        var steps = arange(time, dtype: ScalarType.Int64, device: device).unsqueeze(0);
        var all = starts.All(start => start == starts[0])
            ? steps + starts[0]
            : steps + tensor(starts.ToArray(), dtype: ScalarType.Int64).to(device).unsqueeze(1);
        return all.MoveToOuterDisposeScope();
    }

    /// <summary>The smallest range of keys outside which none of some queries sees anything.</summary>
    public (long First, long End) KeysOf(long firstQuery, long queries)
    {
        var end = highestStart + firstQuery + queries;
        return firstQuery < longestPrefix
            ? (0, Math.Max(end, longestPrefix))
            : (window is { } width ? Math.Max(0, lowestStart + firstQuery - width + 1) : 0, end);
    }

    /// <summary>True where the queries see exactly the keys up to their own index in the block: the causal mask of the fused operation.</summary>
    public bool IsTriangular(long firstQuery, long queries) =>
        firstQuery == 0 && highestStart == 0 && sequenceIds is null && prefixes is null && !(window < queries);

    /// <summary>Bool [B or 1, 1, queries, keys] for a block, true where visible; null where all is.</summary>
    public Tensor? Mask(long firstQuery, long queries, long firstKey, long keys)
    {
        var (lowest, highest) = (lowestStart + firstQuery, highestStart + firstQuery + queries - 1);
        if (sequenceIds is null && firstKey + keys - 1 <= lowest && !(firstKey <= highest - window))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var own = placesOfQueries.narrow(1, firstQuery, queries).unsqueeze(-1);
        var places = arange(firstKey, firstKey + keys, dtype: ScalarType.Int64, device: own.device);
        var visible = places.le(own);
        if (window is { } width)
        {
            visible = visible.logical_and(places.gt(own - width));
        }

        if (prefixes is not null && firstQuery < longestPrefix)
        {
            visible = visible.logical_or(own.lt(prefixes).logical_and(places.lt(prefixes)));
        }

        if (sequenceIds is not null)
        {
            var sequences = sequenceIds.narrow(1, firstQuery, queries).unsqueeze(-1);
            visible = visible.logical_and(sequences.eq(sequenceIds.narrow(1, firstKey, keys).unsqueeze(1)));
        }

        return visible.unsqueeze(1).MoveToOuterDisposeScope();
    }
}
