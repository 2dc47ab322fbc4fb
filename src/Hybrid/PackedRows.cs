using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid;

/// <summary>Packed rows as recurrences and convolutions see them.</summary>
public static class PackedRows
{
    /// <summary>The tokens at which a recurrence starts anew.</summary>
    /// <param name="ids">Sequence ids, int64 [B, T], or null.</param>
    /// <returns>Bool [B, T]: true at the first token of each sequence but the first of the row; null for null.</returns>
    public static Tensor? Restarts(Tensor? ids)
    {
        if (ids is null)
        {
            return null;
        }

        var time = ids.size(1);
        var first = zeros([ids.size(0), 1], dtype: ScalarType.Bool, device: ids.device);
        return cat([first, ids.narrow(1, 1, time - 1).ne(ids.narrow(1, 0, time - 1))], 1);
    }

    /// <summary>The tokens that have a token of their own sequence so many steps back.</summary>
    /// <param name="ids">Sequence ids, int64 [B, T].</param>
    /// <param name="distance">Steps back; 0 or more.</param>
    /// <returns>Bool [B, T].</returns>
    public static Tensor SameSequence(Tensor ids, long distance)
    {
        var (batch, time) = (ids.size(0), ids.size(1));
        if (distance >= time)
        {
            return zeros([batch, time], dtype: ScalarType.Bool, device: ids.device);
        }

        var outside = zeros([batch, distance], dtype: ScalarType.Bool, device: ids.device);
        return cat([outside, ids.narrow(1, distance, time - distance).eq(ids.narrow(1, 0, time - distance))], 1);
    }
}
