using Hybrid.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>
/// Keys and values of the tokens seen so far, [B, H, S, K] in preallocated buffers that double when full. The tokens of a row fill its
/// slots from 0, so rows of different lengths need no padding: a slot beyond a row's last token is never visible to it. With a window of
/// w, the w - 1 last tokens of a row move to the front after each call and the others are gone, so the buffers stop growing.
/// </summary>
public sealed class KeyValueState : MixerState
{
    private const long InitialCapacity = 64;
    private readonly long? maxLength;
    private readonly long? window;

    internal KeyValueState(Tensor keys, Tensor values, long? maxLength, long? window)
        : base(keys.size(0), ("k", keys), ("v", values)) => (this.maxLength, this.window) = (maxLength, window);

    /// <summary>Tokens that fit before the buffers grow.</summary>
    public long Capacity => this[0].size(2);

    /// <summary>Keys [B, H, S, K] of the slots in use, after rotary embedding.</summary>
    public Tensor Keys => this[0].narrow(2, 0, HeldBy(Position));

    /// <summary>Values [B, H, S, K] of the slots in use.</summary>
    public Tensor Values => this[1].narrow(2, 0, HeldBy(Position));

    /// <summary>Tokens that each row still holds: all of them, or the last w - 1.</summary>
    internal IReadOnlyList<long> Held => [.. Positions.Select(HeldBy)];

    /// <summary>True until a window has dropped tokens, which a shorter sequence would see again.</summary>
    public override bool CanTrim => HeldBy(Position) == Position;

    /// <inheritdoc/>
    public override void Trim(long position)
    {
        if (!CanTrim)
        {
            throw new NotSupportedException(
                $"KeyValueState: the window of {window} has dropped tokens that a trimmed sequence would see; keep a Clone() of the position to return to.");
        }

        TrimPositions(position);
    }

    /// <inheritdoc/>
    private protected override IReadOnlyList<int> FreeDimensions => [2];

    /// <inheritdoc/>
    protected internal override void EnsureRoom(long count, IReadOnlyList<long>? lengths)
    {
        if (PositionAfter(count, lengths) is var position && position > maxLength)
        {
            throw new InvalidOperationException($"KeyValueState: the sequence would have {position} tokens; max_length is {maxLength}.");
        }
    }

    internal override Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        var commit = base.PrepareRestore(reader, prefix, newPositions);
        var slots = reader.Size(prefix + "k", 2);
        var needed = HeldBy(newPositions.Max());
        if (needed > slots || slots != reader.Size(prefix + "v", 2) || newPositions.Max() > maxLength)
        {
            throw reader.Mismatch(
                $"keys and values of at least {needed} tokens{(maxLength is null ? "" : $", at most {maxLength}")}",
                $"{slots} and {reader.Size(prefix + "v", 2)}");
        }

        return commit;
    }

    internal static KeyValueState Create(long batch, long heads, long width, long? maxLength, long? window, ScalarType dtype, Device device)
    {
        using var scope = NewDisposeScope();
        var capacity = Math.Min(InitialCapacity, Math.Min(maxLength ?? InitialCapacity, window ?? InitialCapacity));
        return new KeyValueState(
            zeros([batch, heads, capacity, width], dtype: dtype, device: device),
            zeros([batch, heads, capacity, width], dtype: dtype, device: device),
            maxLength,
            window);
    }

    /// <summary>
    /// Writes T new tokens behind each row's own. While autograd records, the result is a tensor of its own, through which gradients
    /// reach the new keys and values; under no_grad it is a view of the buffers.
    /// </summary>
    /// <returns>Keys and values [B, H, S, K], S being the longest row with its new tokens.</returns>
    internal (Tensor Keys, Tensor Values) Append(Tensor keys, Tensor values)
    {
        var (start, count) = (HeldBy(Position), keys.size(2));
        EnsureCapacity(start + count);
        using var scope = NewDisposeScope();
        var slots = IsUniform ? null : RowSlots(count, keys.device);
        var allKeys = Write(0, keys, start, count, slots);
        var allValues = Write(1, values, start, count, slots);
        return (allKeys.MoveToOuterDisposeScope(), allValues.MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    protected internal override void Advance(long count, IReadOnlyList<long>? lengths)
    {
        var before = Held;
        base.Advance(count, lengths);
        long[] dropped = [.. Held.Select((held, row) => before[row] + (lengths?[row] ?? count) - held)];
        if (dropped.Any(tokens => tokens > 0))
        {
            MoveToFront(dropped);
        }
    }

    /// <summary>Tokens that a row of so many holds.</summary>
    private long HeldBy(long position) => Math.Min(position, (window - 1) ?? position);

    /// <summary>Forgets the first tokens of each row, and the slots that a long call has added to those of the window.</summary>
    private void MoveToFront(long[] dropped)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (held, capacity) = (HeldBy(Position), Math.Min(Capacity, window ?? Capacity));
        var device = this[0].device;
        var slots = tensor(dropped, dtype: ScalarType.Int64).to(device).unsqueeze(1) + arange(held, dtype: ScalarType.Int64, device: device);
        var source = slots.clamp_max(Capacity - 1).unsqueeze(1).unsqueeze(-1);           // beyond a row's tokens any slot does
        for (var index = 0; index < 2; index++)
        {
            var old = this[index];
            var shape = old.shape;
            var moved = zeros([shape[0], shape[1], capacity, shape[3]], dtype: old.dtype, device: device);
            moved.narrow(2, 0, held).copy_(old.gather(2, source.expand(shape[0], shape[1], held, shape[3])));
            Set(index, moved);
        }
    }

    private Tensor Write(int index, Tensor added, long start, long count, Tensor? slots)
    {
        var buffer = this[index];
        if (is_grad_enabled())
        {
            var merged = slots is null
                ? cat([buffer.narrow(2, 0, start), added], 2)
                : buffer.narrow(2, 0, start + count).scatter(2, slots.expand_as(added), added);
            using var guard = no_grad();
            var grown = buffer.clone();
            grown.narrow(2, 0, start + count).copy_(merged);
            Set(index, grown);
            return merged;
        }

        if (slots is null)
        {
            buffer.narrow(2, start, count).copy_(added);
        }
        else
        {
            buffer.scatter_(2, slots.expand_as(added), added);
        }

        return buffer.narrow(2, 0, start + count);
    }

    /// <summary>int64 [B, 1, T, 1]: the slots of the new tokens of each row.</summary>
    private Tensor RowSlots(long count, Device device) =>
        (tensor(Held.ToArray(), dtype: ScalarType.Int64).to(device).unsqueeze(1) + arange(count, dtype: ScalarType.Int64, device: device))
            .unsqueeze(1).unsqueeze(-1);

    /// <summary>Grows the buffers to at least twice their size, but not past the longest sequence unless its padding needs slots too.</summary>
    private void EnsureCapacity(long needed)
    {
        if (needed <= Capacity)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var capacity = Math.Max(needed, Capacity * 2);
        capacity = Math.Max(needed, Math.Min(capacity, Math.Min(maxLength ?? capacity, window ?? capacity)));
        for (var index = 0; index < 2; index++)
        {
            var old = this[index];
            var shape = old.shape;
            var grown = zeros([shape[0], shape[1], capacity, shape[3]], dtype: old.dtype, device: old.device);
            grown.narrow(2, 0, shape[2]).copy_(old);
            Set(index, grown);
        }
    }
}
