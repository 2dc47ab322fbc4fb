using System.Diagnostics;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>One call of the router: deciding, grouping rows by route, running each group through its branch, putting the rows back.</summary>
public sealed partial class HybridAttention
{
    /// <summary>Tokens whose inputs a state keeps; 0 where it keeps none.</summary>
    internal long ReprefillLimit => options.OnThresholdCrossing == ThresholdCrossing.Reprefill ? options.ReprefillMaxTokens : 0;

    private sealed record CallResult(
        Tensor Output, IReadOnlyList<RoutedGroup> Groups, RoutingDecision[] Decisions, double RouterTimeUs, double? ProcessingTimeMs);

    /// <summary>Rows that run through one branch together. Without a state nothing is carried; anew, the branch reads their history first.</summary>
    private sealed record RoutedGroup(Route Route, long[] Rows, MixerState? State, bool IsNew, bool ReadsHistory = false);

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

    /// <summary>Asks every group before the first one runs, so that none is advanced by a call that another refuses.</summary>
    private static void EnsureRoom(List<RoutedGroup> groups, RoutedState? state, in MixerBatch batch)
    {
        if (state is null)
        {
            return;
        }

        foreach (var group in groups)
        {
            var lengths = state.OfRows(batch.Lengths, group.Rows);
            var before = group.ReadsHistory ? group.Rows.Max(row => state.Positions[(int)row]) : 0;
            group.State!.EnsureRoom(before + batch.Length, before == 0 ? lengths : null);
        }
    }

    private Tensor RunGroups(List<RoutedGroup> groups, Tensor x, MixerBatch batch, MixerContext context, RoutedState? state)
    {
        if (groups is [{ ReadsHistory: false } only])
        {
            return Select(only.Route).forward(x, context.WithState(only.State));
        }

        var outputs = groups.Select(group => RunRows(group, batch, context, state)).ToArray();
        var order = new long[batch.Size];
        foreach (var (row, place) in groups.SelectMany(group => group.Rows).Select((row, place) => (row, place)))
        {
            order[row] = place;
        }

        return batch.End(cat(outputs, 0).index_select(0, tensor(order, dtype: ScalarType.Int64).to(x.device)));
    }

    /// <summary>Runs some rows, cut to the longest of them: [R, T, D], zero past it.</summary>
    private Tensor RunRows(RoutedGroup group, MixerBatch batch, MixerContext context, RoutedState? state)
    {
        var rows = tensor(group.Rows, dtype: ScalarType.Int64).to(batch.Input.device);
        var input = batch.Input.index_select(0, rows);
        long[]? lengths = batch.Lengths is { } all ? [.. group.Rows.Select(row => all[(int)row])] : null;
        if (group.ReadsHistory)
        {
            return RunHistory(group, input, lengths, state!, rows);
        }

        var longest = lengths?.Max() ?? batch.Length;
        var output = Select(group.Route).forward(input.narrow(1, 0, longest), context with
        {
            State = group.State,
            Lengths = lengths,
            PaddingSide = PaddingSide.Right,
            SequenceIds = context.SequenceIds?.index_select(0, rows),
            PrefixLengths = context.PrefixLengths is { } prefixes ? [.. group.Rows.Select(row => prefixes[(int)row])] : null,
        });
        return longest == batch.Length
            ? output
            : cat([output, zeros([group.Rows.Length, batch.Length - longest, Width], dtype: output.dtype, device: output.device)], 1);
    }

    /// <summary>
    /// Lets a branch read the kept inputs of some rows and the new ones [R, T, D] after them; returns the outputs of the new ones. Gradients
    /// flow into the new inputs; the kept ones are constants, like states.
    /// </summary>
    private Tensor RunHistory(RoutedGroup group, Tensor input, long[]? lengths, RoutedState state, Tensor rows)
    {
        var (time, device) = (input.size(1), input.device);
        var positions = group.Rows.Select(row => state.Positions[(int)row]).ToArray();
        var history = state.History!.Prefix(positions.Max())!.index_select(0, rows);

        // New token t of a row stands at position + t, behind what the row already has.
        var places = (tensor(positions, dtype: ScalarType.Int64).unsqueeze(1) + arange(time, dtype: ScalarType.Int64))
            .to(device).unsqueeze(-1).expand(group.Rows.Length, time, Width);
        var whole = cat([history, zeros_like(input)], 1).scatter(1, places, input);
        long[] totals = [.. positions.Select((position, i) => position + (lengths?[i] ?? time))];
        var output = Select(group.Route).forward(whole, new MixerContext { State = group.State, Lengths = totals });
        return output.gather(1, places);
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

    private static (Tensor Output, double? Milliseconds) Timed(CallTiming timing, Tensor x, Func<Tensor> run)
    {
        if (timing == CallTiming.None)
        {
            return (run(), null);
        }

        if (timing == CallTiming.Device)
        {
            DeviceClock.WaitFor(x);
        }

        var start = Stopwatch.GetTimestamp();
        var output = run();
        if (timing == CallTiming.Device)
        {
            DeviceClock.WaitFor(output);
        }

        return (output, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
    }

    private static long[] AllRows(long count) => [.. Enumerable.Range(0, (int)count).Select(row => (long)row)];
}
