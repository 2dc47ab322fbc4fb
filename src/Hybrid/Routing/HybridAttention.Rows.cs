using System.Diagnostics;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <content>One call of the router: deciding, grouping rows by route, and what is kept and reported of it.</content>
public sealed partial class HybridAttention
{
    /// <summary>Tokens whose inputs a state keeps; 0 where it keeps none.</summary>
    internal long ReprefillLimit => options.OnThresholdCrossing == ThresholdCrossing.Reprefill ? options.ReprefillMaxTokens : 0;

    private sealed record CallResult(
        Tensor Output, IReadOnlyList<RoutedGroup> Groups, RoutingDecision[] Decisions, double RouterTimeUs, double? ProcessingTimeMs);

    /// <summary>Throws where a carried sequence would change its route and the options forbid it.</summary>
    internal void RefuseCrossing(RoutedState state, long count, IReadOnlyList<long>? lengths)
    {
        if (options.OnThresholdCrossing != ThresholdCrossing.Throw || state.Groups.Count == 0)
        {
            return;
        }

        foreach (var (group, row, decision) in Redecide(state, count, lengths))
        {
            if (decision.Route != group.Route)
            {
                throw new InvalidOperationException(
                    $"{GetName()}: row {row} would have {decision.Length} tokens, which the policy '{Policy.Id}' sends to " +
                    $"{RoutingTelemetry.NameOf(decision.Route)}; its state is that of {RoutingTelemetry.NameOf(group.Route)}, and " +
                    "on_threshold_crossing is throw.");
            }
        }
    }

    private CallResult Execute(Tensor x, MixerContext context, CallTiming timing)
    {
        using var scope = NewDisposeScope();
        var outputType = x.dtype;
        x = Rounded(x);
        var batch = MixerBatch.Begin(this, x, context, x.dtype);
        var state = RequireState<RoutedState>(context.State, batch.Size);
        if (state is not null && ReprefillLimit > 0 && context.PrefixLengths is not null)
        {
            throw new NotSupportedException($"{GetName()}: a state that can be read again (reprefill) does not keep PrefixLengths.");
        }

        var start = Stopwatch.GetTimestamp();
        var isNew = state is not { Groups.Count: > 0 };
        var content = isNew ? MeasureContent(batch) : state!.Content;
        var decisions = isNew ? DecideRows(x, batch, content) : DecisionsOf(state!);
        var groups = new List<RoutedGroup>();
        (Tensor Output, double? Milliseconds) run;
        double routerTime;
        try
        {
            if (isNew)
            {
                AddNewGroups(groups, decisions, batch, state);
            }
            else
            {
                RefuseCrossing(state!, batch.Length, batch.Lengths);
                AddCarriedGroups(groups, state!, batch, decisions);
            }

            routerTime = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            EnsureRoom(groups, state, batch);
            run = Timed(timing, x, () => RunGroups(groups, x, batch, context, state));
        }
        catch
        {
            // A call that is refused leaves the state as it was.
            groups.Where(group => group.IsNew).ToList().ForEach(group => group.State?.Dispose());
            throw;
        }

        if (state is not null)
        {
            Commit(state, groups, batch, decisions, content);
        }

        Report(groups, isNew ? decisions : [], routerTime, run.Milliseconds);
        return new CallResult(run.Output.to_type(outputType).MoveToOuterDisposeScope(), groups, decisions, routerTime, run.Milliseconds);
    }

    /// <summary>The input of the branches: a router in mixed precision of its own takes float32 too.</summary>
    private Tensor Rounded(Tensor x) => options.UseMixedPrecision && x.dtype == ScalarType.Float32 ? x.to_type(Matrix.dtype) : x;

    private ContentFeatures[]? MeasureContent(in MixerBatch batch) =>
        Override is null && Policy.Inputs.HasFlag(RoutingInputs.Content) ? ContentFeatures.Measure(batch.Input, batch.Lengths) : null;

    /// <summary>One decision a row where rows differ in length or content; else one for the batch.</summary>
    private RoutingDecision[] DecideRows(Tensor x, MixerBatch batch, ContentFeatures[]? content)
    {
        var request = Request(x, batch.Length, batch.Size);
        return batch.Lengths is null && content is null
            ? [Decide(request)]
            : [.. Enumerable.Range(0, (int)batch.Size).Select(row =>
                Decide(request with { Length = batch.Lengths?[row] ?? batch.Length, Content = content?[row] }))];
    }

    private RoutingRequest Request(Tensor x, long length, long batchSize) => new(length)
    {
        BatchSize = batchSize,
        Training = training,
        Dtype = x.dtype,
        Device = x.device_type,
        DeviceIndex = x.device_index,
        FreeMemoryMib = Override is null && Policy.Inputs.HasFlag(RoutingInputs.FreeMemory) ? MemoryProbe(x.device) : null,
    };

    private void AddNewGroups(List<RoutedGroup> groups, RoutingDecision[] decisions, in MixerBatch batch, RoutedState? state)
    {
        var all = AllRows(batch.Size);
        foreach (var route in decisions.Select(decision => decision.Route).Distinct())
        {
            var rows = decisions.Length == 1 ? all : [.. all.Where(row => decisions[row].Route == route)];
            groups.Add(new RoutedGroup(route, rows, state is null ? null : Select(route).CreateState(rows.Length), IsNew: true));
        }
    }

    /// <summary>The decision of each carried row; of a state that was loaded, that it was.</summary>
    private static RoutingDecision[] DecisionsOf(RoutedState state)
    {
        if (state.Decisions is { } known)
        {
            return [.. known];
        }

        var decisions = new RoutingDecision[state.BatchSize];
        foreach (var (route, rows, _) in state.Groups)
        {
            foreach (var row in rows)
            {
                decisions[row] = new RoutingDecision(route, RoutingReason.Restored, "restored", 1, state.Positions[(int)row], 0);
            }
        }

        return decisions;
    }

    /// <summary>
    /// The groups of the state. Where the policy now says otherwise of some rows and their inputs are there, those rows leave their group
    /// for one that reads them anew, and have a new decision.
    /// </summary>
    private void AddCarriedGroups(List<RoutedGroup> groups, RoutedState state, in MixerBatch batch, RoutingDecision[] decisions)
    {
        var crossed = CrossedRows(state, batch);
        foreach (var group in state.Groups)
        {
            var staying = group.Rows.Where(row => !crossed.ContainsKey(row)).ToArray();
            if (staying.Length == group.Rows.Count)
            {
                groups.Add(new RoutedGroup(group.Route, staying, group.State, IsNew: false));
            }
            else if (staying.Length > 0)
            {
                var places = Enumerable.Range(0, group.Rows.Count).Where(i => !crossed.ContainsKey(group.Rows[i])).Select(i => (long)i);
                groups.Add(new RoutedGroup(group.Route, staying, group.State.Select([.. places]), IsNew: true));
            }
        }

        foreach (var moved in crossed.GroupBy(entry => entry.Value.Route, entry => entry.Key))
        {
            long[] rows = [.. moved.Order()];
            groups.Add(new RoutedGroup(moved.Key, rows, Select(moved.Key).CreateState(rows.Length), IsNew: true, ReadsHistory: true));
        }

        foreach (var (row, decision) in crossed)
        {
            decisions[row] = decision;
        }
    }

    /// <summary>The rows that another branch is to read anew, with their new decisions.</summary>
    private Dictionary<long, RoutingDecision> CrossedRows(RoutedState state, in MixerBatch batch)
    {
        if (options.OnThresholdCrossing != ThresholdCrossing.Reprefill || state.History is not { IsComplete: true }
            || state.PositionAfter(batch.Length, batch.Lengths) > ReprefillLimit)
        {
            return [];
        }

        return Redecide(state, batch.Length, batch.Lengths).Where(entry => entry.Decision.Route != entry.Group.Route)
            .ToDictionary(entry => entry.Row, entry => entry.Decision);
    }

    /// <summary>What the policy says now of every row of a state, at the length that a call brings it to.</summary>
    private IEnumerable<(RoutedRows Group, long Row, RoutingDecision Decision)> Redecide(
        RoutedState state, long count, IReadOnlyList<long>? lengths)
    {
        if (Override is not null)
        {
            yield break;
        }

        var request = Request(Matrix, 1, state.BatchSize);
        foreach (var group in state.Groups)
        {
            foreach (var row in group.Rows)
            {
                var added = lengths?.Count == state.BatchSize ? lengths[(int)row] : count;
                yield return (group, row, Decide(request with { Length = state.Positions[(int)row] + added, Content = state.Content?[row] }));
            }
        }
    }

    private void Commit(
        RoutedState state, List<RoutedGroup> groups, in MixerBatch batch, RoutingDecision[] decisions, ContentFeatures[]? content)
    {
        if (ReprefillLimit > 0)
        {
            state.Keep(batch.Input, batch.Lengths, ReprefillLimit);
        }

        state.Commit(
            [.. groups.Select(group => new RoutedRows(group.Route, group.Rows, group.State!))],
            decisions.Length == 1 ? [.. Enumerable.Repeat(decisions[0], (int)batch.Size)] : decisions,
            content);
        state.Advance(batch.Length, batch.Lengths);
    }

    private void Report(List<RoutedGroup> groups, RoutingDecision[] decided, double routerTime, double? time)
    {
        foreach (var decision in decided)
        {
            Count(decision);
            if (options.LogDecisions)
            {
                var module = RoutingTelemetry.NameOf(decision.Route);
                RoutingTelemetry.LogDecision(Logger, Policy.Id, module, decision.Length, decision.Detail, decision.Threshold, decision.Confidence);
            }
        }

        foreach (var crossed in groups.Where(group => group.ReadsHistory))
        {
            var module = RoutingTelemetry.NameOf(crossed.Route);
            RoutingTelemetry.Crossed(module, crossed.Rows.Length);
            RoutingTelemetry.LogCrossing(Logger, crossed.Rows.Length, module);
        }

        if (options.CollectMetrics)
        {
            RoutingTelemetry.Called(groups.Count > 1 ? "mixed" : RoutingTelemetry.NameOf(groups[0].Route), routerTime, time);
        }
    }

    private static long[] AllRows(long count) => [.. Enumerable.Range(0, (int)count).Select(row => (long)row)];
}
