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
    private readonly long time;
    private readonly Device device;
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
        (Starts, Window, this.time, this.device, this.sequenceIds) = (starts, window, time, device, sequenceIds);
        prefixes = longestPrefix > 0 ? tensor(prefixLengths!.ToArray(), dtype: ScalarType.Int64).to(device).view(-1, 1, 1) : null;
    }

    private KeyVisibility(KeyVisibility other, IReadOnlyList<Tensor> tensors)
    {
        (lowestStart, highestStart, longestPrefix) = (other.lowestStart, other.highestStart, other.longestPrefix);
        (Starts, Window, time, device) = (other.Starts, other.Window, other.time, other.device);
        sequenceIds = other.sequenceIds is null ? null : tensors[0];
        prefixes = other.prefixes is null ? null : tensors[^1];
    }

    /// <summary>Its tensors, for a backward pass to save, which may come when those of the forward pass are gone.</summary>
    public IReadOnlyList<Tensor> Tensors => [.. new[] { sequenceIds, prefixes }.OfType<Tensor>()];

    /// <summary>Keys before the first query of each row; one entry where the rows agree.</summary>
    public IReadOnlyList<long> Starts { get; }

    /// <summary>Keys w that a query sees, its own counted; null means all before it.</summary>
    public long? Window { get; }

    /// <summary>True where the places and the window say it all: no packed rows, no prefixes.</summary>
    public bool IsByOrderAlone => sequenceIds is null && prefixes is null;

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
            : (Window is { } width ? Math.Max(0, lowestStart + firstQuery - width + 1) : 0, end);
    }

    /// <summary>True where the queries see exactly the keys up to their own index in the block: the causal mask of the fused operation.</summary>
    public bool IsTriangular(long firstQuery, long queries) =>
        firstQuery == 0 && highestStart == 0 && sequenceIds is null && prefixes is null && !(Window < queries);

    /// <summary>Bool [B or 1, 1, queries, keys] for a block, true where visible; null where all is.</summary>
    public Tensor? Mask(long firstQuery, long queries, long firstKey, long keys)
    {
        var (lowest, highest) = (lowestStart + firstQuery, highestStart + firstQuery + queries - 1);
        if (sequenceIds is null && firstKey + keys - 1 <= lowest && !(firstKey <= highest - Window))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var own = Consecutive(Starts, time, device).narrow(1, firstQuery, queries).unsqueeze(-1);
        var places = arange(firstKey, firstKey + keys, dtype: ScalarType.Int64, device: own.device);
        var visible = places.le(own);
        if (Window is { } width)
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
