using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>
/// The inputs of carried sequences, so that another branch can read them anew: [B, capacity, D], grown by doubling. Rows hold as many
/// tokens as their positions say; a batch that outgrows the bound lets go of all of them.
/// </summary>
internal sealed class InputHistory(long limit) : IDisposable
{
    private Tensor? buffer;

    /// <summary>False once a sequence outgrew the bound: what came later is not complete.</summary>
    public bool IsComplete { get; private set; } = true;

    /// <summary>Bytes held.</summary>
    public long ByteSize => buffer is null ? 0 : buffer.numel() * buffer.element_size();

    /// <summary>The first tokens of all rows: [B, <paramref name="length"/>, D]; null where none are held.</summary>
    public Tensor? Prefix(long length) => buffer?.narrow(1, 0, length);

    /// <summary>Keeps the tokens of a call, as constants.</summary>
    /// <param name="input">[B, T, D], real tokens first.</param>
    /// <param name="lengths">Real tokens of each row, or null where all are.</param>
    /// <param name="positions">Tokens of each row before the call.</param>
    public void Append(Tensor input, IReadOnlyList<long>? lengths, IReadOnlyList<long> positions)
    {
        if (!IsComplete)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var shape = input.shape;
        var needed = Enumerable.Range(0, positions.Count).Max(row => positions[row] + (lengths?[row] ?? shape[1]));
        if (needed > limit)
        {
            IsComplete = false;
            Dispose();
            return;
        }

        Reserve(needed, input, positions.Max());
        for (var row = 0; row < positions.Count; row++)
        {
            var count = lengths?[row] ?? shape[1];
            buffer!.select(0, row).narrow(0, positions[row], count).copy_(input.select(0, row).narrow(0, 0, count).detach());
        }
    }

    /// <summary>The history of some rows, in the order asked for.</summary>
    public InputHistory Select(IReadOnlyList<long> rows)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        return new InputHistory(limit)
        {
            buffer = buffer?.index_select(0, tensor(rows.ToArray(), dtype: ScalarType.Int64).to(buffer.device)).DetachFromDisposeScope(),
            IsComplete = IsComplete,
        };
    }

    /// <summary>A history that a file holds; the tensor is taken over.</summary>
    public static InputHistory Restore(long limit, Tensor? held) =>
        new(limit) { buffer = held?.DetachFromDisposeScope(), IsComplete = held is not null };

    /// <summary>Frees the tensor.</summary>
    public void Dispose()
    {
        buffer?.Dispose();
        buffer = null;
    }

    private void Reserve(long needed, Tensor like, long used)
    {
        var capacity = buffer?.size(1) ?? 0;
        if (needed <= capacity)
        {
            return;
        }

        var size = Math.Min(limit, Math.Max(needed, 2 * capacity));
        var larger = zeros([like.size(0), size, like.size(2)], dtype: like.dtype, device: like.device);
        if (buffer is not null && used > 0)
        {
            larger.narrow(1, 0, used).copy_(buffer.narrow(1, 0, used));
        }

        buffer?.Dispose();
        buffer = larger.DetachFromDisposeScope();
    }
}
