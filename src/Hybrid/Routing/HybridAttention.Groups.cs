using System.Diagnostics;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <content>The groups of one call: running each through its branch, and putting the rows back.</content>
public sealed partial class HybridAttention
{
    /// <summary>Rows that run through one branch together. Without a state nothing is carried; anew, the branch reads their history first.</summary>
    private sealed record RoutedGroup(Route Route, long[] Rows, MixerState? State, bool IsNew, bool ReadsHistory = false);

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
}
