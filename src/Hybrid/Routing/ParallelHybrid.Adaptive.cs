using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>The adaptive mode: which sequences run which path on which of their tokens.</summary>
public sealed partial class ParallelHybrid
{
    /// <summary>Sequences without a state: all paths on the first W tokens, then one path alone.</summary>
    private Tensor RunWholeSequences(MixerBatch batch, MixerContext context)
    {
        var tokens = new TokenTable(batch.Input);
        var sequences = SequencesOf(batch, context);
        var (first, gateSum) = RunFirst(tokens, sequences.First(options.DecisionTokens), context, null);
        tokens.Put(sequences.First(options.DecisionTokens), first);

        var deciding = sequences.Where(count => count > options.DecisionTokens);
        foreach (var choice in Choose(gateSum, deciding, context, _ => true))
        {
            // From the first token on, so that gradients cross the W-th one.
            var chosen = sequences.Rows(choice.Rows);
            var y = RunRest(choice, tokens, chosen, context, null);
            tokens.Put(chosen.From(options.DecisionTokens), chosen.From(y, options.DecisionTokens));
        }

        return tokens.Output();
    }

    /// <summary>Sequences with a state: those that have no path yet come up to token W, then each group goes on on its own path.</summary>
    private Tensor ContinueSequences(MixerBatch batch, MixerContext context, ParallelHybridState state)
    {
        var tokens = new TokenTable(batch.Input);
        var sequences = SequencesOf(batch, context);
        foreach (var group in state.Groups.ToArray())
        {
            var own = sequences.Rows(group.Rows);
            if (group.Path is { } path)
            {
                tokens.Put(own, RunRest(new Choice(path, group.Rows, true, null), tokens, own, context, group.State));
                continue;
            }

            long[] missing = [.. group.Rows.Select(row => options.DecisionTokens - state.Positions[(int)row])];
            var first = own.First(missing);
            var (y, gateSum) = RunFirst(tokens, first, context, group.State);
            tokens.Put(first, y);
            Decide(group, own, missing, gateSum);
        }

        return tokens.Output();

        // What is left of the sequences that reach token W in this call runs on their path; those that end there go on with the next call.
        void Decide(PathGroup group, TokenSpans own, long[] missing, Tensor gateSum)
        {
            long[] members = [.. Enumerable.Range(0, missing.Length)];
            var choices = Choose(gateSum, [.. members.Where(i => own.Counts[(int)i] >= missing[i])], context, i => own.Counts[(int)i] > missing[i]);
            long[] undecided = [.. members.Except(choices.SelectMany(choice => choice.Rows))];
            var groups = state.Split(group, [.. choices.Select(choice => ((ParallelPath?)choice.Path, choice.Rows)), (null, undecided)]);
            foreach (var (choice, joined) in choices.Zip(groups).Where(entry => entry.First.GoesOn))
            {
                var rest = own.Rows(choice.Rows).From([.. choice.Rows.Select(row => missing[row])]);
                tokens.Put(rest, RunRest(choice, tokens, rest, context, joined.State));
            }
        }
    }

    /// <summary>All paths on the first tokens of sequences.</summary>
    private (Tensor Output, Tensor GateSum) RunFirst(TokenTable tokens, TokenSpans spans, MixerContext context, CompositeState? states)
    {
        var inner = context with { Lengths = spans.Lengths, SequenceIds = null };
        return RunAll(MixerBatch.Begin(this, tokens.Take(spans), inner, outProjection.weight.dtype), inner, states);
    }

    /// <summary>The chosen path on the other tokens, times the weight 1 that has the gate's gradient.</summary>
    private Tensor RunRest(Choice choice, TokenTable tokens, TokenSpans spans, MixerContext context, CompositeState? states)
    {
        if (options.CollectMetrics)
        {
            counter.CountAlone(choice.Path, Starts(states?.Parts[0], spans.Counts.Count), spans.Counts, skip: states is null ? options.DecisionTokens : 0);
        }

        var y = RunAlone(choice.Path, tokens.Take(spans), context with { Lengths = spans.Lengths, SequenceIds = null }, states);
        return choice.Weight is null ? y : y * choice.Weight.to_type(y.dtype);
    }

    /// <summary>The path with the largest mean weight for each of some sequences; the first of several that are equal.</summary>
    /// <param name="gateSum">Sum of the weights over the first W tokens [R, 3].</param>
    /// <param name="rows">The sequences to decide for, of those R.</param>
    /// <param name="context">Receives the load loss.</param>
    /// <param name="goesOn">Tells the sequences apart that have tokens left.</param>
    /// <returns>The sequences by path, and by whether they go on.</returns>
    private List<Choice> Choose(Tensor gateSum, long[] rows, MixerContext context, Func<long, bool> goesOn)
    {
        if (rows.Length == 0)
        {
            return [];
        }

        var mean = gateSum.index_select(0, tensor(rows).to(gateSum.device)) / options.DecisionTokens;
        var best = mean.detach().argmax(1).to(CPU).data<long>().ToArray();
        if (options.CollectMetrics)
        {
            counter.CountDecisions(best);
        }

        var weight = is_grad_enabled() ? StraightThrough(mean, best) : null;
        AddLoadLoss(mean, best, context);
        return [.. best.Select((path, i) => (Path: (ParallelPath)path, GoesOn: goesOn(rows[i]), Index: (long)i))
            .GroupBy(entry => (entry.Path, entry.GoesOn), entry => entry.Index)
            .Select(group => MakeChoice(group.Key.Path, group.Key.GoesOn, [.. group]))];

        Choice MakeChoice(ParallelPath path, bool going, long[] chosen) => new(
            path, [.. chosen.Select(index => rows[index])], going, weight?.index_select(0, tensor(chosen).to(gateSum.device)));
    }

    /// <summary>1 with the gradient of the chosen weight: [R, 1, 1].</summary>
    private static Tensor StraightThrough(Tensor mean, long[] best)
    {
        var chosen = mean.gather(1, tensor(best).to(mean.device).unsqueeze(1)).unsqueeze(-1);
        return chosen - chosen.detach() + 1;
    }

    private void AddLoadLoss(Tensor mean, long[] best, MixerContext context)
    {
        if (context.AuxiliaryLosses is not { } losses || options.LoadLossCoefficient == 0)
        {
            return;
        }

        var shares = Enum.GetValues<ParallelPath>().Select(path => (float)best.Count(chosen => chosen == (long)path) / best.Length).ToArray();
        var balance = (mean.mean([0]) * tensor(shares).to(mean.device).to_type(mean.dtype)).sum();
        losses.Add((balance * (Parts * options.LoadLossCoefficient)).DetachFromDisposeScope());
    }

    /// <summary>The sequences of a call: its rows, or the sequences packed in them.</summary>
    private static TokenSpans SequencesOf(MixerBatch batch, MixerContext context)
    {
        if (context.SequenceIds is null)
        {
            return new TokenSpans(
                [.. Enumerable.Range(0, (int)batch.Size).Select(row => row * batch.Length)],
                batch.Lengths ?? [.. Enumerable.Repeat(batch.Length, (int)batch.Size)]);
        }

        var restarts = PackedRows.Restarts(context.SequenceIds)!.to(CPU).data<bool>().ToArray();
        long[] starts = [.. Enumerable.Range(0, restarts.Length).Where(i => restarts[i] || i % batch.Length == 0).Select(i => (long)i)];
        return new TokenSpans(starts, [.. starts.Zip(starts.Skip(1).Append(restarts.Length), (start, end) => end - start)]);
    }

    /// <summary>
    /// Sequences that stay with a path, whether they have tokens left, and the weight [R, 1, 1] that carries the gate's gradient; null
    /// where it has none.
    /// </summary>
    private readonly record struct Choice(ParallelPath Path, long[] Rows, bool GoesOn, Tensor? Weight);
}
