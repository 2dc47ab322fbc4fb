using Hybrid.Checkpoints;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>Sequences that share a path, and its states; without a path they run all of them.</summary>
internal sealed record PathGroup(ParallelPath? Path, long[] Rows, CompositeState State);

/// <summary>
/// State of a <see cref="ParallelHybrid"/>: of every sequence the states of the paths that it still runs. They lie in groups of sequences
/// that run the same.
/// </summary>
public sealed class ParallelHybridState : MixerState
{
    private const string AllPaths = "All";

    private readonly ParallelHybrid mixer;
    private List<PathGroup> groups;

    internal ParallelHybridState(long batchSize, ParallelHybrid mixer)
        : base(batchSize)
    {
        this.mixer = mixer;
        groups = [new PathGroup(null, [.. Enumerable.Range(0, (int)batchSize)], mixer.CreateParts(null, batchSize))];
    }

    /// <summary>The path that each sequence stays with; null while it runs all of them.</summary>
    public IReadOnlyList<ParallelPath?> Paths
    {
        get
        {
            var paths = new ParallelPath?[BatchSize];
            groups.ForEach(group => Array.ForEach(group.Rows, row => paths[row] = group.Path));
            return paths;
        }
    }

    /// <inheritdoc/>
    public override long ByteSize => groups.Sum(group => group.State.ByteSize);

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> NamedTensors =>
        groups.SelectMany((group, i) => group.State.NamedTensors.Select(entry => ($"{i}.{entry.Name}", entry.Tensor)));

    internal IReadOnlyList<PathGroup> Groups => groups;

    /// <inheritdoc/>
    public override MixerState Clone() => Copy(
        [.. Positions], [.. groups.Select(group => group with { State = (CompositeState)group.State.Clone() })]);

    /// <inheritdoc/>
    public override MixerState Select(IReadOnlyList<long> rows)
    {
        ValidateRows(rows);
        var selected = new List<PathGroup>();
        foreach (var group in groups)
        {
            long[] taken = [.. Enumerable.Range(0, rows.Count).Where(i => group.Rows.Contains(rows[i])).Select(i => (long)i)];
            if (taken.Length > 0)
            {
                long[] own = [.. taken.Select(i => (long)Array.IndexOf(group.Rows, rows[(int)i]))];
                selected.Add(new PathGroup(group.Path, taken, (CompositeState)group.State.Select(own)));
            }
        }

        return Copy([.. rows.Select(row => Positions[(int)row])], selected);
    }

    /// <inheritdoc/>
    protected internal override void EnsureRoom(long count, IReadOnlyList<long>? lengths) => groups.ForEach(
        group => group.State.EnsureRoom(count, lengths is null ? null : [.. group.Rows.Select(row => lengths[(int)row])]));

    /// <summary>Divides a group that runs all paths.</summary>
    /// <param name="group">The group.</param>
    /// <param name="parts">The path of each new group, and its sequences as places in the old one; a part without any makes no group.</param>
    /// <returns>The new groups, in the order of the parts.</returns>
    internal IReadOnlyList<PathGroup> Split(PathGroup group, IReadOnlyList<(ParallelPath? Path, long[] Members)> parts)
    {
        var filled = parts.Where(part => part.Members.Length > 0).ToArray();
        if (filled is [(null, _)])
        {
            return [group];
        }

        PathGroup[] made = [.. filled.Select(part => new PathGroup(
            part.Path, [.. part.Members.Select(member => group.Rows[member])], ParallelHybrid.SelectParts(group.State, part.Path, part.Members)))];
        groups.Remove(group);
        groups.AddRange(made);
        group.State.Dispose();
        return made;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            groups.ForEach(group => group.State.Dispose());
        }

        base.Dispose(disposing);
    }

    internal override void AddMetadata(Dictionary<string, string> metadata, string prefix)
    {
        metadata[prefix + "mode"] = mixer.StateKind;
        metadata[prefix + "groups"] = string.Join(';', groups.Select(group => $"{group.Path?.ToString() ?? AllPaths}:{string.Join(',', group.Rows)}"));
        for (var i = 0; i < groups.Count; i++)
        {
            groups[i].State.AddMetadata(metadata, $"{prefix}{i}.");
        }
    }

    internal override Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        var loaded = new List<PathGroup>();
        try
        {
            var commits = new List<Action>();
            foreach (var (path, rows) in ReadGroups(reader, prefix))
            {
                loaded.Add(new PathGroup(path, rows, mixer.CreateParts(path, rows.Length)));
                commits.Add(loaded[^1].State.PrepareRestore(reader, $"{prefix}{commits.Count}.", [.. rows.Select(row => newPositions[row])]));
            }

            return () =>
            {
                commits.ForEach(commit => commit());
                groups.ForEach(group => group.State.Dispose());
                groups = loaded;
                SetPositions(newPositions);
            };
        }
        catch
        {
            loaded.ForEach(group => group.State.Dispose());
            throw;
        }
    }

    private List<(ParallelPath? Path, long[] Rows)> ReadGroups(StateReader reader, string prefix)
    {
        if (reader.Metadata(prefix + "mode") is var mode && mode != mixer.StateKind)
        {
            throw reader.Mismatch($"the state of a parallel hybrid that is {mixer.StateKind}", $"'{mode}'");
        }

        var text = reader.Metadata(prefix + "groups") ?? "";
        var read = new List<(ParallelPath? Path, long[] Rows)>();
        foreach (var parts in text.Split(';').Select(group => group.Split(':', 2)))
        {
            var path = Enum.TryParse<ParallelPath>(parts[0], out var named) && Enum.IsDefined(named) ? named : (ParallelPath?)null;
            long[] rows = [.. (parts.Length == 2 ? parts[1] : "").Split(',').Select(row => long.TryParse(row, out var number) ? number : -1)];
            if (path is null && parts[0] != AllPaths)
            {
                throw Malformed();
            }

            read.Add((path, rows));
        }

        return read.SelectMany(group => group.Rows).Order().SequenceEqual(Enumerable.Range(0, (int)BatchSize).Select(row => (long)row))
            ? read
            : throw Malformed();

        InvalidDataException Malformed() => reader.Mismatch($"a path of each of {BatchSize} sequences", $"'{text}'");
    }

    private ParallelHybridState Copy(long[] newPositions, List<PathGroup> newGroups)
    {
        var copy = (ParallelHybridState)Rebuild(tensor => tensor, newPositions);
        copy.groups = newGroups;
        return copy;
    }
}
