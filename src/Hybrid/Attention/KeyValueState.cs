using Hybrid.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>
/// Keys and values of the tokens seen so far, [B, H, S, K] in preallocated buffers that double when full. Token p of a row is in slot p, so
/// rows of different lengths need no padding: a slot beyond a row's last token is never visible to it. With a window of w the buffers grow
/// to w slots and are a ring from then on: token p is in slot p mod w, in the place of token p - w, the nearest that its query does not
/// see. A decoding step then writes one slot a row and moves none. A saved cache names its window and rotary embedding; attention that is
/// set otherwise refuses it.
/// </summary>
public sealed class KeyValueState : MixerState
{
    private const long InitialCapacity = 64;
    private readonly long? maxLength;
    private readonly long? window;
    private readonly string rotary;

    internal KeyValueState(Tensor keys, Tensor values, long? maxLength, long? window, string rotary)
        : base(keys.size(0), ("k", keys), ("v", values)) => (this.maxLength, this.window, this.rotary) = (maxLength, window, rotary);

    /// <summary>Tokens that fit before the buffers grow, or with a window, before they are a ring.</summary>
    public long Capacity => this[0].size(2);

    /// <summary>Keys [B, H, S, K] of the slots in use, after rotary embedding; with a window w, token p is in slot p mod w.</summary>
    public Tensor Keys => this[0].narrow(2, 0, SlotsFor(Position));

    /// <summary>Values [B, H, S, K] of the slots in use.</summary>
    public Tensor Values => this[1].narrow(2, 0, SlotsFor(Position));

    /// <summary>Tokens of each row that its next token sees: all of them, or the last w - 1.</summary>
    internal IReadOnlyList<long> Visible => [.. Positions.Select(position => Math.Min(position, (window - 1) ?? position))];

    /// <summary>True until a window has dropped tokens, which a shorter sequence would see again.</summary>
    public override bool CanTrim => SlotsFor(Position) == Position;

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

    /// <summary>Makes the cache of sequences that have seen no token yet.</summary>
    /// <param name="batch">Sequences B.</param>
    /// <param name="heads">Key heads H.</param>
    /// <param name="width">Width K of a head.</param>
    /// <param name="maxLength">Tokens of the longest sequence; null means no limit.</param>
    /// <param name="window">Keys w that a token sees, itself counted; null means all before it.</param>
    /// <param name="rotary">What turned the keys, which a saved cache must agree with.</param>
    /// <param name="dtype">Type of the buffers.</param>
    /// <param name="device">Where they are.</param>
    internal static KeyValueState Create(
        long batch, long heads, long width, long? maxLength, long? window, string rotary, ScalarType dtype, Device device)
    {
        using var scope = NewDisposeScope();
        var capacity = Math.Min(InitialCapacity, Math.Min(maxLength ?? InitialCapacity, window ?? InitialCapacity));
        return new KeyValueState(
            zeros([batch, heads, capacity, width], dtype: dtype, device: device),
            zeros([batch, heads, capacity, width], dtype: dtype, device: device),
            maxLength,
            window,
            rotary);
    }

    /// <inheritdoc/>
    internal override void AddMetadata(Dictionary<string, string> metadata, string prefix)
    {
        metadata[prefix + "window"] = WindowText;
        metadata[prefix + "rope"] = rotary;
    }

    /// <inheritdoc/>
    internal override Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        RequireSame("window", WindowText);
        RequireSame("rope", rotary);
        var commit = base.PrepareRestore(reader, prefix, newPositions);
        var slots = reader.Size(prefix + "k", 2);
        var longest = newPositions.Max();
        if (SlotsFor(longest) > slots || slots > window || slots != reader.Size(prefix + "v", 2) || longest > maxLength)
        {
            throw reader.Mismatch(
                $"keys and values of at least {SlotsFor(longest)} tokens{((maxLength ?? window) is null ? "" : $", at most {maxLength ?? window}")}",
                $"{slots} and {reader.Size(prefix + "v", 2)}");
        }

        return commit;

        void RequireSame(string name, string own)
        {
            if (reader.Metadata(prefix + name) is var stored && stored != own)
            {
                throw reader.Mismatch($"a cache with {name} {own}", stored is null ? $"one that does not say its {name}" : $"{name} {stored}");
            }
        }
    }

    /// <summary>
    /// Gives T new tokens a place behind each row's own, which is final with <see cref="Advance(Tensor, Tensor, IReadOnlyList{long}?)"/>: a
    /// call that fails between the two may be repeated. While autograd records, the result is a tensor of its own, through which gradients
    /// reach the new keys and values; under no_grad it may be a view of the buffers.
    /// </summary>
    /// <param name="keys">[B, H, T, K].</param>
    /// <param name="values">[B, H, T, K].</param>
    /// <returns>
    /// Keys and values [B, H, S, K]: of each row the <see cref="Visible"/> ones, then the new ones; where T is 1, in any order.
    /// </returns>
    internal (Tensor Keys, Tensor Values) Append(Tensor keys, Tensor values)
    {
        var count = keys.size(2);
        EnsureCapacity(SlotsFor(Position + count));
        if (!LapsItself(count))
        {
            using var scope = NewDisposeScope();
            var slots = IsUniform && !is_grad_enabled() ? null : SlotsOfNew(count, keys.device);
            var (allKeys, allValues) = (Write(0, keys, slots), Write(1, values, slots));
            return (allKeys.MoveToOuterDisposeScope(), allValues.MoveToOuterDisposeScope());
        }

        if (Position == 0)
        {
            return (keys, values);
        }

        using var lap = NewDisposeScope();
        var inOrder = PerRow(row => VisibleThenNew(Positions[row], count), IsUniform).to(keys.device);
        var (orderedKeys, orderedValues) = (Pick(cat([this[0], keys], 2), inOrder), Pick(cat([this[1], values], 2), inOrder));
        return (orderedKeys.MoveToOuterDisposeScope(), orderedValues.MoveToOuterDisposeScope());
    }

    /// <summary>Keys and values [B, H, S, K] of all slots, those of so many new tokens too, for a kernel that writes them itself.</summary>
    internal (Tensor Keys, Tensor Values) BuffersFor(long count)
    {
        EnsureCapacity(SlotsFor(Position + count));
        return (this[0], this[1]);
    }

    /// <summary>Counts the tokens of a call.</summary>
    /// <param name="keys">The new keys as given to <see cref="Append"/>.</param>
    /// <param name="values">The new values.</param>
    /// <param name="lengths">Real tokens of each row, or null.</param>
    internal void Advance(Tensor keys, Tensor values, IReadOnlyList<long>? lengths)
    {
        var count = keys.size(2);
        if (LapsItself(count))
        {
            using var scope = NewDisposeScope();
            using var guard = no_grad();
            var newest = PerRow(row => Newest(Positions[row], lengths?[row] ?? count), IsUniform && lengths is null).to(keys.device);
            Set(0, Pick(cat([this[0], keys], 2), newest));
            Set(1, Pick(cat([this[1], values], 2), newest));
        }

        Advance(count, lengths);
    }

    private string WindowText => window is { } width ? FormattableString.Invariant($"{width}") : "none";

    /// <summary>Slots that so many tokens of a row take.</summary>
    private long SlotsFor(long tokens) => Math.Min(tokens, window ?? tokens);

    /// <summary>True where a token of a call would take the slot of one that an earlier token of the call sees.</summary>
    private bool LapsItself(long count) => count > 1 && Position + count > window;

    /// <summary>Int64 [B or 1, 1, T, 1]: the slots of the new tokens, where no later one laps an earlier.</summary>
    private Tensor SlotsOfNew(long count, Device device) =>
        KeyVisibility.Consecutive([.. Positions.Select(position => position % (window ?? long.MaxValue))], count, device).unsqueeze(1).unsqueeze(-1);

    private Tensor Write(int index, Tensor added, Tensor? slots)
    {
        var buffer = this[index];
        var count = added.size(2);
        var used = SlotsFor(Position + count);
        var recorded = is_grad_enabled() ? buffer.narrow(2, 0, used).scatter(2, slots!.expand_as(added), added) : null;
        using var guard = no_grad();
        if (slots is null)
        {
            buffer.narrow(2, Position % (window ?? long.MaxValue), count).copy_(added);
        }
        else
        {
            buffer.scatter_(2, slots.expand_as(added), added);
        }

        return recorded ?? buffer.narrow(2, 0, used);
    }

    /// <summary>
    /// Where the visible tokens of a row and the new ones are among the slots with the new tokens behind them. Beyond the row's last any do.
    /// </summary>
    private IEnumerable<long> VisibleThenNew(long position, long count)
    {
        var (visible, longest) = (Math.Min(position, window!.Value - 1), Visible.Max());
        for (var i = 0L; i < longest + count; i++)
        {
            yield return i < visible ? (position - visible + i) % window.Value : Capacity + Math.Min(i - visible, count - 1);
        }
    }

    /// <summary>Where the last token of each slot is among the slots with the new tokens behind them.</summary>
    private IEnumerable<long> Newest(long position, long added)
    {
        for (var slot = 0L; slot < Capacity; slot++)
        {
            var last = position + added - 1;
            var token = last - ((last - slot) % Capacity);
            yield return token < position || token > last ? slot : Capacity + token - position;
        }
    }

    /// <summary>Int64 [B, n] of n numbers for each row, or [1, n] where the rows agree.</summary>
    private Tensor PerRow(Func<int, IEnumerable<long>> numbers, bool agree)
    {
        var rows = agree ? 1 : (int)BatchSize;
        return tensor(Enumerable.Range(0, rows).SelectMany(numbers).ToArray(), dtype: ScalarType.Int64).view(rows, -1);
    }

    /// <summary>The slots of a tensor [B, H, S, K] that are asked for: [B, H, n, K].</summary>
    private static Tensor Pick(Tensor slots, Tensor places)
    {
        if (places.size(0) == 1)
        {
            return slots.index_select(2, places[0]);
        }

        var shape = slots.shape;
        return slots.gather(2, places.unsqueeze(1).unsqueeze(-1).expand(shape[0], shape[1], places.size(1), shape[3]));
    }

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
