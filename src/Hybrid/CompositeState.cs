using Hybrid.Checkpoints;
using Hybrid.Kernels;
using static TorchSharp.torch;

namespace Hybrid;

/// <summary>The states of several layers as one: what a backbone carries.</summary>
public class CompositeState : MixerState
{
    private MixerState[] parts;
    private StepBuffers? buffers;

    /// <param name="batchSize">Number of sequences B.</param>
    /// <param name="parts">One state a layer; the composite takes them over.</param>
    public CompositeState(long batchSize, IEnumerable<MixerState> parts)
        : base(batchSize) => this.parts = [.. parts];

    /// <summary>The states, in the order of the layers.</summary>
    public IReadOnlyList<MixerState> Parts => parts;

    /// <summary>What the layers write into while they decode from this state, ready for the next token.</summary>
    internal StepBuffers BeginStep()
    {
        buffers ??= new StepBuffers();
        buffers.Begin();
        return buffers;
    }

    /// <summary>Checks that a state has the parts of a mixer that made it.</summary>
    /// <param name="state">The state; null is none.</param>
    /// <param name="mixer">The mixer, for the error text.</param>
    /// <param name="count">Parts of its states.</param>
    /// <returns>The state.</returns>
    /// <exception cref="ArgumentException">It has another number of parts, or a call failed between them.</exception>
    internal static CompositeState? Require(CompositeState? state, SequenceMixer mixer, int count) =>
        state is null || state.Parts.Count == count
            ? state?.RequireWhole(mixer.GetName())
            : throw new ArgumentException(
                $"{mixer.GetName()}: the state must have {count} parts, made by CreateState; got {state.Parts.Count} parts.", nameof(state));

    /// <summary>
    /// Throws where a part is ahead of the whole, which is advanced last: a call failed after this part's layer, and its tokens cannot be
    /// taken out of a recurrent state again.
    /// </summary>
    /// <param name="owner">The mixer or stack, for the error text.</param>
    /// <returns>This state.</returns>
    /// <exception cref="ArgumentException">A call failed between the parts.</exception>
    internal CompositeState RequireWhole(string owner)
    {
        var position = Position;
        for (var i = 0; i < parts.Length; i++)
        {
            if (parts[i].Position > position)
            {
                throw new ArgumentException(
                    $"{owner}: an earlier call failed between the parts of this state: part {i} has {parts[i].Position} tokens; expected at most {position}. " +
                    "Go on from a Clone() made before that call, or from a new state.");
            }
        }

        return this;
    }

    /// <inheritdoc/>
    public override long ByteSize => parts.Sum(part => part.ByteSize);

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> NamedTensors =>
        parts.SelectMany((part, i) => part.NamedTensors.Select(entry => ($"{i}.{entry.Name}", entry.Tensor)));

    /// <inheritdoc/>
    public override bool CanTrim => parts.All(part => part.CanTrim);

    /// <inheritdoc/>
    public override MixerState Clone() => Copy(part => part.Clone(), [.. Positions]);

    /// <inheritdoc/>
    public override MixerState Select(IReadOnlyList<long> rows)
    {
        ValidateRows(rows);
        return Copy(part => part.Select(rows), [.. rows.Select(row => Positions[(int)row])]);
    }

    /// <inheritdoc/>
    public override void Trim(long position)
    {
        if (!CanTrim)
        {
            base.Trim(position);
        }

        TrimPositions(position);
        foreach (var part in parts)
        {
            part.Trim(position);
        }
    }

    /// <inheritdoc/>
    protected internal override void EnsureRoom(long count, IReadOnlyList<long>? lengths)
    {
        foreach (var part in parts)
        {
            part.EnsureRoom(count, lengths);
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            foreach (var part in parts)
            {
                part.Dispose();
            }

            buffers?.Dispose();
        }

        base.Dispose(disposing);
    }

    internal override void AddMetadata(Dictionary<string, string> metadata, string prefix)
    {
        for (var i = 0; i < parts.Length; i++)
        {
            parts[i].AddMetadata(metadata, $"{prefix}{i}.");
        }
    }

    internal override Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        var commits = parts.Select((part, i) => part.PrepareRestore(reader, $"{prefix}{i}.", newPositions)).ToArray();
        return () =>
        {
            foreach (var commit in commits)
            {
                commit();
            }

            SetPositions(newPositions);
        };
    }

    private CompositeState Copy(Func<MixerState, MixerState> copyPart, long[] newPositions)
    {
        var copy = (CompositeState)Rebuild(tensor => tensor, newPositions);
        copy.parts = [.. parts.Select(copyPart)];
        copy.buffers = null;
        return copy;
    }
}
