using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>
/// Which keys each query of a call sees: with p the slot of the query's own key, those at <c>p - w &lt; j &lt;= p</c> that belong to its packed
/// sequence. The slots of the rows are known without asking the device, so blocks that no query sees are left out unseen.
/// </summary>
internal sealed class KeyVisibility
{
    private readonly long lowestStart;
    private readonly long highestStart;
    private readonly long? window;
    private readonly Tensor? sequenceIds;
    private readonly Tensor slotsOfQueries;

    /// <param name="starts">Keys before the first query of each row; one entry where the rows agree or there is no state.</param>
    /// <param name="time">Queries T of a row.</param>
    /// <param name="window">Keys w that a query sees, its own counted; null means all before it.</param>
    /// <param name="sequenceIds">Int64 [B, T] of packed rows, whose queries and keys are the same tokens; null means one sequence a row.</param>
    /// <param name="device">Device of the queries.</param>
    public KeyVisibility(IReadOnlyList<long> starts, long time, long? window, Tensor? sequenceIds, Device device)
    {
        (lowestStart, highestStart) = (starts.Min(), starts.Max());
        (this.window, this.sequenceIds) = (window, sequenceIds);
        slotsOfQueries = Consecutive(starts, time, device);
    }

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
    public (long First, long End) KeysOf(long firstQuery, long queries) => (
        window is { } width ? Math.Max(0, lowestStart + firstQuery - width + 1) : 0,
        highestStart + firstQuery + queries);

    /// <summary>True where the queries see exactly the keys up to their own index in the block: the causal mask of the fused operation.</summary>
    public bool IsTriangular(long firstQuery, long queries) =>
        firstQuery == 0 && highestStart == 0 && sequenceIds is null && !(window < queries);

    /// <summary>Bool [B or 1, 1, queries, keys] for a block, true where visible; null where all is.</summary>
    public Tensor? Mask(long firstQuery, long queries, long firstKey, long keys)
    {
        var (lowest, highest) = (lowestStart + firstQuery, highestStart + firstQuery + queries - 1);
        if (sequenceIds is null && firstKey + keys - 1 <= lowest && !(firstKey <= highest - window))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var own = slotsOfQueries.narrow(1, firstQuery, queries).unsqueeze(-1);
        var slots = arange(firstKey, firstKey + keys, dtype: ScalarType.Int64, device: own.device);
        var visible = slots.le(own);
        if (window is { } width)
        {
            visible = visible.logical_and(slots.gt(own - width));
        }

        if (sequenceIds is not null)
        {
            var sequences = sequenceIds.narrow(1, firstQuery, queries).unsqueeze(-1);
            visible = visible.logical_and(sequences.eq(sequenceIds.narrow(1, firstKey, keys).unsqueeze(1)));
        }

        return visible.unsqueeze(1).MoveToOuterDisposeScope();
    }
}
