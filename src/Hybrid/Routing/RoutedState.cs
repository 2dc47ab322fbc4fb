using Hybrid.Checkpoints;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>State of a <see cref="HybridAttention"/>: the branch that was chosen, and its state. Before the first call there is none.</summary>
public sealed class RoutedState : MixerState
{
    private readonly HybridAttention router;

    internal RoutedState(long batchSize, HybridAttention router)
        : base(batchSize) => this.router = router;

    /// <summary>The decision that these sequences stay with; null before their first call.</summary>
    public RoutingDecision? Decision { get; private set; }

    /// <summary>The branch of these sequences; null before their first call.</summary>
    public Route? Route { get; private set; }

    /// <summary>The state of the chosen branch; null before the first call.</summary>
    public MixerState? Inner { get; private set; }

    /// <inheritdoc/>
    public override long ByteSize => Inner?.ByteSize ?? 0;

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> NamedTensors => Inner?.NamedTensors ?? [];

    /// <inheritdoc/>
    public override bool CanTrim => Inner?.CanTrim ?? true;

    /// <inheritdoc/>
    public override MixerState Clone() => Copy(Inner?.Clone(), [.. Positions]);

    /// <inheritdoc/>
    public override MixerState Select(IReadOnlyList<long> rows)
    {
        ValidateRows(rows);
        return Copy(Inner?.Select(rows), [.. rows.Select(row => Positions[(int)row])]);
    }

    /// <inheritdoc/>
    public override void Trim(long position)
    {
        Inner?.Trim(position);
        TrimPositions(position);
    }

    /// <inheritdoc/>
    protected internal override void EnsureRoom(long count, IReadOnlyList<long>? lengths) => Inner?.EnsureRoom(count, lengths);

    internal void Choose(RoutingDecision decision, MixerState inner) => (Decision, Route, Inner) = (decision, decision.Route, inner);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            Inner?.Dispose();
        }

        base.Dispose(disposing);
    }

    internal override void AddMetadata(Dictionary<string, string> metadata, string prefix)
    {
        if (Route is { } route)
        {
            metadata[prefix + "route"] = route.ToString();
            Inner!.AddMetadata(metadata, prefix);
        }
    }

    internal override Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        if (reader.Metadata(prefix + "route") is not { } name)
        {
            return () => Replace(null, null, newPositions);
        }

        if (!Enum.TryParse<Route>(name, out var route))
        {
            throw reader.Mismatch($"a route of {string.Join(" or ", Enum.GetNames<Route>())}", $"'{name}'");
        }

        var inner = router.Select(route).CreateState(BatchSize);
        try
        {
            var commit = inner.PrepareRestore(reader, prefix, newPositions);
            return () =>
            {
                commit();
                Replace(route, inner, newPositions);
            };
        }
        catch
        {
            inner.Dispose();
            throw;
        }
    }

    private void Replace(Route? route, MixerState? inner, long[] newPositions)
    {
        Inner?.Dispose();
        (Decision, Route, Inner) = (null, route, inner);
        SetPositions(newPositions);
    }

    private RoutedState Copy(MixerState? inner, long[] newPositions)
    {
        var copy = (RoutedState)Rebuild(tensor => tensor, newPositions);
        copy.Inner = inner;
        return copy;
    }
}
