using Hybrid.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid;

/// <summary>
/// What a mixer remembers of B sequences between calls. A state owns its tensors: they belong to no dispose scope, live until the
/// state is disposed, and are the only long-lived tensors besides parameters. Every tensor has the batch as its first dimension.
/// </summary>
/// <remarks>
/// States are constants to autograd: gradients do not flow into the calls that made them. A state is not thread-safe; sequences that
/// run in parallel each need their own.
/// </remarks>
public abstract class MixerState : IDisposable
{
    private readonly string[] names;
    private Tensor[] tensors;
    private long[] positions;
    private bool disposed;

    /// <param name="batchSize">Number of sequences B.</param>
    /// <param name="tensors">Named tensors [B, ...]; the state takes them over.</param>
    protected MixerState(long batchSize, params (string Name, Tensor Tensor)[] tensors)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(batchSize, 1);
        names = [.. tensors.Select(entry => entry.Name)];
        this.tensors = [.. tensors.Select(entry => entry.Tensor.DetachFromDisposeScope())];
        positions = new long[batchSize];
    }

    /// <summary>Number of sequences B.</summary>
    public long BatchSize => positions.Length;

    /// <summary>Tokens that each sequence has consumed, padding not counted.</summary>
    public IReadOnlyList<long> Positions => positions;

    /// <summary>Tokens that the longest sequence has consumed.</summary>
    public long Position => positions.Max();

    /// <summary>True where all sequences have consumed the same number of tokens.</summary>
    public bool IsUniform => positions.All(position => position == positions[0]);

    /// <summary>Memory of all tensors, in bytes.</summary>
    public virtual long ByteSize => tensors.Sum(tensor => tensor.numel() * tensor.element_size());

    /// <summary>The tensors under the names that <see cref="Save"/> writes. They stay the state's own.</summary>
    public virtual IEnumerable<(string Name, Tensor Tensor)> NamedTensors => names.Zip(tensors);

    /// <summary>An independent copy: advancing one does not move the other.</summary>
    /// <returns>The copy; the caller disposes it.</returns>
    public virtual MixerState Clone() => Rebuild(tensor => tensor.clone(), (long[])positions.Clone());

    /// <summary>A state of some of the sequences, in the order asked for; a row may be repeated (beam search, best of n).</summary>
    /// <param name="rows">Row numbers, each 0..B-1.</param>
    /// <returns>The new state; the caller disposes it.</returns>
    public virtual MixerState Select(IReadOnlyList<long> rows)
    {
        ValidateRows(rows);
        using var scope = NewDisposeScope();
        var index = tensor(rows.ToArray(), dtype: ScalarType.Int64);
        return Rebuild(
            tensor => tensor.index_select(0, index.to(tensor.device)),
            [.. rows.Select(row => positions[row])]);
    }

    /// <summary>True where <see cref="Trim"/> works: attention can forget tokens, a recurrence cannot run backwards.</summary>
    public virtual bool CanTrim => false;

    /// <summary>Forgets every token after the first <paramref name="position"/> of each sequence.</summary>
    /// <param name="position">Tokens to keep, 0..<see cref="Position"/>.</param>
    /// <exception cref="NotSupportedException">The state folds its tokens together and cannot take them apart.</exception>
    public virtual void Trim(long position) =>
        throw new NotSupportedException(
            $"{GetType().Name}: a recurrent state cannot forget tokens; keep a Clone() of the position to return to.");

    /// <summary>Writes the state to a safetensors file, by way of a temporary file.</summary>
    /// <param name="path">The file to write.</param>
    public void Save(string path)
    {
        var metadata = new Dictionary<string, string>
        {
            ["kind"] = GetType().Name,
            ["positions"] = string.Join(',', positions),
        };
        AddMetadata(metadata, "");
        SafeTensorsFile.Write(path, NamedTensors.Select(entry => (entry.Name, entry.Tensor)), metadata);
    }

    /// <summary>Replaces this state by one that <see cref="Save"/> wrote. On an error the state stays as it was.</summary>
    /// <param name="path">The file to read.</param>
    /// <exception cref="InvalidDataException">The file is not a state of this kind and batch size.</exception>
    public void Load(string path)
    {
        using var scope = NewDisposeScope();
        using var file = SafeTensorsFile.Open(path);
        var kind = file.Metadata.GetValueOrDefault("kind");
        if (kind != GetType().Name)
        {
            throw new InvalidDataException($"{path}: expected the state of a {GetType().Name}; found '{kind ?? "no state"}'.");
        }

        var loaded = (file.Metadata.GetValueOrDefault("positions") ?? "").Split(',').Select(ParsePosition).ToArray();
        if (loaded.Length != BatchSize)
        {
            throw new InvalidDataException($"{path}: expected {BatchSize} sequences; found {loaded.Length}.");
        }

        var commit = PrepareRestore(new StateReader(file, path), "", loaded);
        commit();

        long ParsePosition(string text) =>
            long.TryParse(text, out var value) && value >= 0
                ? value
                : throw new InvalidDataException($"{path}: a position must be a number of tokens; found '{text}'.");
    }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the tensors.</summary>
    /// <param name="disposing">True when called from <see cref="Dispose()"/>.</param>
    protected virtual void Dispose(bool disposing)
    {
        if (!disposing || disposed)
        {
            return;
        }

        disposed = true;
        foreach (var tensor in tensors)
        {
            tensor.Dispose();
        }
    }

    /// <summary>The tensor given under this place in the constructor.</summary>
    /// <param name="index">Place, from 0.</param>
    /// <returns>The tensor; it stays the state's own.</returns>
    protected Tensor this[int index]
    {
        get
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            return tensors[index];
        }
    }

    /// <summary>
    /// Stores a new value. Under <c>no_grad</c> it is copied into the tensor that is there if the shape allows; while autograd records,
    /// the old tensor may be part of the graph, so it is replaced.
    /// </summary>
    /// <param name="index">Place, from 0.</param>
    /// <param name="value">The new value [B, ...]; the caller keeps its own handle.</param>
    protected void Set(int index, Tensor value)
    {
        var current = this[index];
        if (!is_grad_enabled() && current.shape.AsSpan().SequenceEqual(value.shape) && current.dtype == value.dtype)
        {
            using var scope = NewDisposeScope();
            current.copy_(value);
            return;
        }

        using var source = value.detach();
        tensors[index] = source.clone().DetachFromDisposeScope();
        current.Dispose();
    }

    /// <summary>
    /// Throws where the state cannot take more tokens. A stack asks all its states before the first layer runs, so that a call that one
    /// layer would refuse leaves none of them advanced.
    /// </summary>
    /// <param name="count">Tokens of the call.</param>
    /// <param name="lengths">Real tokens of each sequence, or null.</param>
    /// <exception cref="InvalidOperationException">A sequence would outgrow its limit.</exception>
    protected internal virtual void EnsureRoom(long count, IReadOnlyList<long>? lengths)
    {
    }

    /// <summary>Tokens that the longest sequence will have consumed after a call.</summary>
    /// <param name="count">Tokens of the call.</param>
    /// <param name="lengths">Real tokens of each sequence, or null; of another number than the sequences, it counts as null.</param>
    /// <returns>The position.</returns>
    internal long PositionAfter(long count, IReadOnlyList<long>? lengths) =>
        lengths?.Count == positions.Length ? positions.Zip(lengths, (position, length) => position + length).Max() : Position + count;

    /// <summary>Counts the tokens of a call.</summary>
    /// <param name="count">Tokens added to every sequence, unless <paramref name="lengths"/> says otherwise.</param>
    /// <param name="lengths">Tokens added to each sequence, or null.</param>
    protected internal virtual void Advance(long count, IReadOnlyList<long>? lengths)
    {
        for (var row = 0; row < positions.Length; row++)
        {
            positions[row] += lengths?[row] ?? count;
        }
    }

    /// <summary>Cuts every position to at most <paramref name="position"/>, for <see cref="Trim"/>.</summary>
    /// <param name="position">Largest position to keep.</param>
    protected void TrimPositions(long position)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(position);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(position, Position);
        positions = [.. positions.Select(current => Math.Min(current, position))];
    }

    /// <summary>Throws unless every entry is a row of this state.</summary>
    /// <param name="rows">Row numbers.</param>
    protected void ValidateRows(IReadOnlyList<long> rows)
    {
        ArgumentOutOfRangeException.ThrowIfZero(rows.Count, nameof(rows));
        foreach (var row in rows)
        {
            if (row < 0 || row >= BatchSize)
            {
                throw new ArgumentOutOfRangeException(nameof(rows), row, $"{GetType().Name}: a row must be 0..{BatchSize - 1}; got {row}.");
            }
        }
    }

    /// <summary>A state of the same kind with transformed tensors.</summary>
    private protected virtual MixerState Rebuild(Func<Tensor, Tensor> transform, long[] newPositions)
    {
        using var guard = no_grad();
        var copy = (MixerState)MemberwiseClone();
        copy.tensors = [.. tensors.Select(tensor => transform(tensor).DetachFromDisposeScope())];
        copy.positions = newPositions;
        return copy;
    }

    /// <summary>Adds what <see cref="Load"/> needs besides tensors and positions.</summary>
    internal virtual void AddMetadata(Dictionary<string, string> metadata, string prefix)
    {
    }

    /// <summary>Reads and checks everything; the action that it returns takes it over and cannot fail.</summary>
    internal virtual Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        var loaded = names.Select((name, i) => reader.Read(prefix + name, tensors[i], FreeDimensions)).ToArray();
        return () =>
        {
            foreach (var tensor in tensors)
            {
                tensor.Dispose();
            }

            tensors = [.. loaded.Select(tensor => tensor.DetachFromDisposeScope())];
            positions = (long[])newPositions.Clone();
        };
    }

    /// <summary>Dimensions whose size may differ between a fresh state and a saved one: the time axis of a cache.</summary>
    private protected virtual IReadOnlyList<int> FreeDimensions => [];

    /// <summary>Sets the positions, for a state made of others.</summary>
    private protected void SetPositions(long[] newPositions) => positions = (long[])newPositions.Clone();
}
