using Hybrid.Checkpoints;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>Rows of a routed batch that went the same way at the same call, and the state of their branch.</summary>
/// <param name="Route">The branch.</param>
/// <param name="Rows">Row numbers of the batch; row i of the branch's state is row Rows[i].</param>
/// <param name="State">The state of the branch.</param>
public sealed record RoutedRows(Route Route, IReadOnlyList<long> Rows, MixerState State);

/// <summary>
/// State of a <see cref="HybridAttention"/>: the branches that were chosen, their states, and with
/// <see cref="ThresholdCrossing.Reprefill"/> the inputs so far. Before the first call there is none.
/// </summary>
/// <remarks>
/// A file holds routes, states and inputs, not the decisions and content features behind them: a policy that reads content decides by
/// length alone on a crossing of a sequence that was loaded.
/// </remarks>
public sealed class RoutedState : MixerState
{
    private const string RouteKey = "route";
    private const string GroupsKey = "groups";
    private const string HistoryName = "inputs";

    private readonly HybridAttention router;
    private RoutedRows[] groups = [];
    private RoutingDecision[]? decisions;

    internal RoutedState(long batchSize, HybridAttention router)
        : base(batchSize) => this.router = router;

    /// <summary>The branches with their rows; empty before the first call.</summary>
    public IReadOnlyList<RoutedRows> Groups => groups;

    /// <summary>The decision of each row; null before the first call, and for a state that was loaded.</summary>
    public IReadOnlyList<RoutingDecision>? Decisions => decisions;

    /// <summary>The decision that all rows share; null where there is none.</summary>
    public RoutingDecision? Decision => decisions is [var first, ..] && Array.TrueForAll(decisions, decision => decision == first) ? first : null;

    /// <summary>The branch of all rows; null before their first call, and where they went both ways.</summary>
    public Route? Route => groups is [{ Route: var first }, ..] && Array.TrueForAll(groups, group => group.Route == first) ? first : null;

    /// <summary>The state of the branch that all rows took at the same call; null where there is no such branch.</summary>
    public MixerState? Inner => groups is [var only] ? only.State : null;

    /// <summary>What the content of each row was at its prefill; null where it was not measured.</summary>
    internal ContentFeatures[]? Content { get; private set; }

    /// <summary>The inputs so far; null where the router keeps none.</summary>
    internal InputHistory? History { get; private set; }

    /// <inheritdoc/>
    public override long ByteSize => groups.Sum(group => group.State.ByteSize) + (History?.ByteSize ?? 0);

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> NamedTensors
    {
        get
        {
            var states = groups.SelectMany((group, i) => group.State.NamedTensors.Select(entry => (Prefix(i) + entry.Name, entry.Tensor)));
            return History?.Prefix(Position) is { } inputs ? states.Append((HistoryName, inputs)) : states;
        }
    }

    /// <inheritdoc/>
    public override bool CanTrim => groups.All(group => group.State.CanTrim);

    /// <inheritdoc/>
    public override MixerState Clone() => Select([.. Enumerable.Range(0, (int)BatchSize).Select(row => (long)row)], group => group.State.Clone());

    /// <inheritdoc/>
    public override MixerState Select(IReadOnlyList<long> rows)
    {
        ValidateRows(rows);
        return Select(rows, null);
    }

    /// <inheritdoc/>
    public override void Trim(long position)
    {
        if (groups.FirstOrDefault(group => !group.State.CanTrim) is { } recurrent)
        {
            recurrent.State.Trim(position);
        }

        TrimPositions(position);
        foreach (var group in groups)
        {
            group.State.Trim(Math.Min(position, group.State.Position));
        }
    }

    /// <inheritdoc/>
    protected internal override void EnsureRoom(long count, IReadOnlyList<long>? lengths)
    {
        router.RefuseCrossing(this, count, lengths);
        foreach (var group in groups)
        {
            group.State.EnsureRoom(count, OfRows(lengths, group.Rows));
        }
    }

    /// <summary>The lengths of some rows; null for null or for another number of them than there are rows, which the call refuses.</summary>
    internal IReadOnlyList<long>? OfRows(IReadOnlyList<long>? lengths, IReadOnlyList<long> rows) =>
        lengths?.Count == BatchSize ? [.. rows.Select(row => lengths[(int)row])] : null;

    /// <summary>
    /// Takes what a call made: the new groups, whose states are the state's own from now on, and the decisions behind them. States that
    /// are in no group any more are freed.
    /// </summary>
    internal void Commit(RoutedRows[] newGroups, RoutingDecision[]? newDecisions, ContentFeatures[]? content)
    {
        foreach (var group in groups.Where(old => !Array.Exists(newGroups, group => ReferenceEquals(group.State, old.State))))
        {
            group.State.Dispose();
        }

        (groups, decisions, Content) = (newGroups, newDecisions, content);
    }

    /// <summary>Keeps the inputs of a call, before its tokens are counted.</summary>
    internal void Keep(Tensor input, IReadOnlyList<long>? lengths, long limit) =>
        (History ??= new InputHistory(limit)).Append(input, lengths, Positions);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            foreach (var group in groups)
            {
                group.State.Dispose();
            }

            History?.Dispose();
        }

        base.Dispose(disposing);
    }

    internal override void AddMetadata(Dictionary<string, string> metadata, string prefix)
    {
        if (groups.Length > 1)
        {
            metadata[prefix + GroupsKey] = string.Join(';', groups.Select(group => $"{group.Route}:{string.Join(',', group.Rows)}"));
        }
        else if (groups is [var only])
        {
            metadata[prefix + RouteKey] = only.Route.ToString();
        }

        for (var i = 0; i < groups.Length; i++)
        {
            groups[i].State.AddMetadata(metadata, prefix + Prefix(i));
        }

        if (History?.Prefix(Position) is not null)
        {
            metadata[prefix + HistoryName] = "kept";
        }
    }

    internal override Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        var stored = ReadGroups(reader, prefix);
        var made = new List<RoutedRows>();
        try
        {
            var commits = new List<Action>();
            foreach (var (route, rows) in stored)
            {
                var state = router.Select(route).CreateState(rows.Length);
                made.Add(new RoutedRows(route, rows, state));
                var part = stored.Count > 1 ? $"{prefix}group{made.Count - 1}." : prefix;
                commits.Add(state.PrepareRestore(reader, part, [.. rows.Select(row => newPositions[row])]));
            }

            var history = ReadHistory(reader, prefix);
            return () =>
            {
                commits.ForEach(commit => commit());
                Commit([.. made], null, null);
                History?.Dispose();
                History = history is null && made.Count == 0 ? null : InputHistory.Restore(router.ReprefillLimit, history);
                SetPositions(newPositions);
            };
        }
        catch
        {
            made.ForEach(group => group.State.Dispose());
            throw;
        }
    }

    /// <summary>The names of the tensors of a single group are those of its state.</summary>
    private string Prefix(int group) => groups.Length > 1 ? $"group{group}." : "";

    private List<(Route Route, long[] Rows)> ReadGroups(StateReader reader, string prefix)
    {
        var all = Enumerable.Range(0, (int)BatchSize).Select(row => (long)row).ToArray();
        if (reader.Metadata(prefix + GroupsKey) is not { } text)
        {
            return reader.Metadata(prefix + RouteKey) is { } name ? [(ReadRoute(reader, name), all)] : [];
        }

        var stored = new List<(Route Route, long[] Rows)>();
        foreach (var part in text.Split(';'))
        {
            var sides = part.Split(':');
            var rows = sides.Length == 2 ? sides[1].Split(',').Select(row => long.TryParse(row, out var number) ? number : -1).ToArray() : [];
            stored.Add((ReadRoute(reader, sides[0]), rows));
        }

        return stored.SelectMany(group => group.Rows).Order().SequenceEqual(all)
            ? stored
            : throw reader.Mismatch($"groups that hold each of {BatchSize} rows once", $"'{text}'");
    }

    private static Route ReadRoute(StateReader reader, string name) =>
        Enum.TryParse<Route>(name, out var route) && Enum.IsDefined(route)
            ? route
            : throw reader.Mismatch($"a route of {string.Join(" or ", Enum.GetNames<Route>())}", $"'{name}'");

    private Tensor? ReadHistory(StateReader reader, string prefix)
    {
        if (router.ReprefillLimit == 0 || reader.Metadata(prefix + HistoryName) is null)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var weight = router.Matrix;
        var like = zeros([BatchSize, 1, router.Width], dtype: weight.dtype, device: weight.device);
        return reader.Read(prefix + HistoryName, like, [1]).MoveToOuterDisposeScope();
    }

    private RoutedState Select(IReadOnlyList<long> rows, Func<RoutedRows, MixerState>? copyWhole)
    {
        var copy = (RoutedState)Rebuild(tensor => tensor, [.. rows.Select(row => Positions[(int)row])]);
        copy.groups = [.. groups.Select(group => SelectRows(group, rows, copyWhole)).OfType<RoutedRows>()];
        copy.decisions = decisions is null ? null : [.. rows.Select(row => decisions[row])];
        copy.Content = Content is null ? null : [.. rows.Select(row => Content[row])];
        copy.History = History?.Select(rows);
        return copy;
    }

    /// <summary>The rows of a group that are asked for, under their new numbers; null where there are none.</summary>
    private static RoutedRows? SelectRows(RoutedRows group, IReadOnlyList<long> rows, Func<RoutedRows, MixerState>? copyWhole)
    {
        if (copyWhole is not null)
        {
            return group with { State = copyWhole(group) };
        }

        var places = group.Rows.Select((row, i) => (row, i)).ToDictionary(entry => entry.row, entry => (long)entry.i);
        var taken = Enumerable.Range(0, rows.Count).Where(i => places.ContainsKey(rows[i])).ToArray();
        return taken.Length == 0
            ? null
            : new RoutedRows(group.Route, [.. taken.Select(i => (long)i)], group.State.Select([.. taken.Select(i => places[rows[i]])]));
    }
}
