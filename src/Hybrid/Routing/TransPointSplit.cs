using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>
/// Which tokens of a call attention serves and which the state space. The rows of a call may stand at different positions, so each has
/// its own border; where they agree, no masks are needed.
/// </summary>
internal sealed class TransPointSplit
{
    private readonly Device device;
    private readonly long[] borders;
    private readonly long[] held;
    private readonly bool[] crosses;

    /// <param name="starts">Tokens that each row has consumed before the call.</param>
    /// <param name="time">Tokens T of a row of the call, padding included.</param>
    /// <param name="lengths">Real tokens of each row, or null where every row is full.</param>
    /// <param name="transPoint">The TransPoint P.</param>
    /// <param name="device">Device of the tokens.</param>
    public TransPointSplit(IReadOnlyList<long> starts, long time, IReadOnlyList<long>? lengths, long transPoint, Device device)
    {
        this.device = device;
        long[] ends = [.. starts.Select((start, row) => start + (lengths?[row] ?? time))];
        borders = [.. starts.Select(start => Math.Clamp(transPoint - start, 0, time))];
        held = [.. ends.Select(end => Math.Min(end, transPoint))];
        crosses = [.. starts.Select((start, row) => start < transPoint && ends[row] >= transPoint)];
    }

    /// <summary>Tokens that attention serves in every row.</summary>
    public long Least => borders.Min();

    /// <summary>Tokens of the row in which attention serves the most.</summary>
    public long Most => borders.Max();

    /// <summary>True where some row reaches its TransPoint in this call.</summary>
    public bool AnyCrosses => crosses.Any(reaches => reaches);

    /// <summary>Bool [B, 1, 1, 1], true for the rows that reach their TransPoint in this call; null where all do.</summary>
    public Tensor? CrossingRows() => crosses.All(reaches => reaches) ? null : tensor(crosses).to(device).view(-1, 1, 1, 1);

    /// <summary>Bool [B, S], true where slots hold a token that came before the TransPoint, this call's included; null where all do.</summary>
    public Tensor? MemorySlots(long slots) => held.All(count => count == slots) ? null : Before(held, 0, slots);

    /// <summary>Bool [B, count], true where attention serves the token.</summary>
    public Tensor IsAttention(long first, long count) => Before(borders, first, count);

    private Tensor Before(long[] ends, long first, long count)
    {
        using var scope = NewDisposeScope();
        var places = arange(first, first + count, dtype: ScalarType.Int64, device: device);
        return places.lt(tensor(ends, dtype: ScalarType.Int64).to(device).unsqueeze(1)).MoveToOuterDisposeScope();
    }
}
