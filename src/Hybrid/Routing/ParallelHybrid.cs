using Hybrid.Attention;
using Hybrid.Mixers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Routing;

/// <summary>
/// Mamba and attention side by side with a gate per token: with m = mamba(x), a = attention(x) and the causal cross attention
/// c = softmax(Q(m) K(a)^T / sqrt K) V(a), the output is <c>W_o [w_m m; w_a a; w_f c]</c> (+ x where asked for). The weights come from how
/// each token differs from those before it: its change, its variance over channels, its distance from the running mean.
/// </summary>
/// <remarks>
/// <para>Weighted mode runs everything and sums. Adaptive mode does so for the first W tokens of a sequence; the path with the largest mean
/// weight there then has the rest to itself, with weight 1, and the others do not run (fusion needs all three). The choice depends on the
/// first W tokens alone, so the layer stays causal, and it stays with the sequence: the rows of a batch and the sequences of a packed row
/// each have their own. Gradients reach the gate through the weights of the first tokens, through the chosen path (the weight 1 has the
/// gradient of the mean weight, the straight-through estimator of Bengio et al., arXiv 1308.3432) and, where
/// <see cref="MixerContext.AuxiliaryLosses"/> is given, through the load loss <c>3 sum_p f_p P_p</c> over the share f of sequences on a
/// path and its mean weight P (Fedus et al., arXiv 2101.03961).</para>
/// <para>Without a state, the chosen path runs from the first token on, so that its gradients are those of the whole sequence.
/// The adaptive mode refuses <see cref="MixerContext.PrefixLengths"/>.</para>
/// </remarks>
public sealed partial class ParallelHybrid : SequenceMixer
{
    // Where a group of sequences that run all paths has the states of each.
    private const int AnalyserPart = 0;
    private const int FirstPathPart = 1;

    private readonly ParallelHybridOptions options;
    private readonly PathCounter counter;

    [ComponentName(Name = "analyser")]
    private readonly PathAnalyser analyser;

    [ComponentName(Name = "mamba")]
    private readonly MambaMixer mamba;

    [ComponentName(Name = "attention")]
    private readonly MultiHeadAttention attention;

    [ComponentName(Name = "fusion")]
    private readonly MultiHeadAttention fusion;

    [ComponentName(Name = "out_proj")]
    private readonly Linear outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Mode and paths; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public ParallelHybrid(long width, ParallelHybridOptions? options = null)
        : base(nameof(ParallelHybrid), width)
    {
        this.options = options ??= new ParallelHybridOptions();
        options.Validate();
        analyser = new PathAnalyser(width);
        mamba = new MambaMixer(width, options.MambaConfig);
        attention = new MultiHeadAttention(width, options.AttentionConfig);
        fusion = new MultiHeadAttention(width, options.FusionConfig);
        outProjection = Linear(Parts * width, width, hasBias: false);
        counter = new PathCounter(
            PathCost.Of(mamba), PathCost.Of(attention, options.AttentionConfig, width), PathCost.Of(fusion, options.FusionConfig, width));
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    /// <summary>What a saved state must agree with: weighted, or adaptive with so many deciding tokens.</summary>
    internal string StateKind => options.Mode == ParallelHybridMode.Weighted ? "weighted" : $"adaptive {options.DecisionTokens}";

    private static int Parts => Enum.GetValues<ParallelPath>().Length;

    /// <summary>What the calls since construction or the last reset executed; zeros without <see cref="ParallelHybridOptions.CollectMetrics"/>.</summary>
    /// <returns>A snapshot.</returns>
    public PathUsage GetUsage() => counter.Snapshot();

    /// <summary>Sets the counts of <see cref="GetUsage"/> to zero.</summary>
    public void ResetUsage() => counter.Reset();

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        return new ParallelHybridState(batchSize, this);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, outProjection.weight.dtype);
        var state = RequireState<ParallelHybridState>(context.State, batch.Size);
        state?.EnsureRoom(batch.Length, batch.Lengths);
        if (options.Mode == ParallelHybridMode.Adaptive && context.PrefixLengths is not null)
        {
            throw new NotSupportedException(
                $"{GetName()}: the adaptive mode takes no PrefixLengths: it runs the first {options.DecisionTokens} tokens of a sequence before the others.");
        }

        // The paths see right-padded rows.
        var aligned = context with { State = null, Lengths = batch.Lengths, PaddingSide = PaddingSide.Right };
        var y = (options.Mode, state) switch
        {
            (ParallelHybridMode.Weighted, _) => RunAll(batch, aligned, state?.Groups[0].State).Output,
            (_, null) => RunWholeSequences(batch, aligned),
            _ => ContinueSequences(batch, aligned, state),
        };
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(options.Residual ? batch.Input + y : y).MoveToOuterDisposeScope();
    }

    /// <summary>States of some sequences.</summary>
    /// <param name="path">The path that they stay with; null for all paths and the analyser.</param>
    /// <param name="count">Number of sequences.</param>
    internal CompositeState CreateParts(ParallelPath? path, long count) => path switch
    {
        null => new(count, [analyser.CreateState(count), mamba.CreateState(count), attention.CreateState(count), fusion.CreateState(count)]),
        ParallelPath.Mamba => new(count, [mamba.CreateState(count)]),
        ParallelPath.Attention => new(count, [attention.CreateState(count)]),
        _ => new(count, [mamba.CreateState(count), attention.CreateState(count), fusion.CreateState(count)]),
    };

    /// <summary>The states of some sequences that run all paths, as far as one path needs them.</summary>
    /// <param name="states">States of <see cref="CreateParts"/> for all paths.</param>
    /// <param name="path">The path that the sequences stay with; null for all paths.</param>
    /// <param name="rows">The sequences.</param>
    internal static CompositeState SelectParts(CompositeState states, ParallelPath? path, IReadOnlyList<long> rows)
    {
        IEnumerable<MixerState> needed = path switch
        {
            null => states.Parts,
            ParallelPath.Fusion => states.Parts.Skip(FirstPathPart),
            _ => [states.Parts[FirstPathPart + (int)path]],
        };
        return new(rows.Count, needed.Select(part => part.Select(rows)));
    }

    /// <summary>Runs all paths and sums them by weight.</summary>
    /// <param name="batch">The input.</param>
    /// <param name="context">Its padding and packed rows.</param>
    /// <param name="states">States of <see cref="CreateParts"/> for all paths, which are advanced, or null.</param>
    /// <returns>Output [B, T, D], and the sum of the weights [B, 3] over the real tokens so far.</returns>
    private (Tensor Output, Tensor GateSum) RunAll(MixerBatch batch, MixerContext context, CompositeState? states)
    {
        if (options.CollectMetrics)
        {
            var counts = SequencesOf(batch, context).Counts;
            counter.CountAll(Starts(states?.Parts[FirstPathPart], counts.Count), counts);
        }

        var (gates, sum) = analyser.Weigh(batch, context.SequenceIds, (PathAnalyserState?)states?.Parts[AnalyserPart]);
        if (options.CollectMetrics)
        {
            counter.CountGates(batch.Mask is null ? gates : gates.masked_fill(batch.Mask.logical_not().unsqueeze(-1), 0), batch);
        }

        var (m, a, c) = RunThree(batch.Input, context, states?.Parts[FirstPathPart], states?.Parts[FirstPathPart + 1], states?.Parts[FirstPathPart + 2]);
        var weights = gates.to_type(m.dtype).chunk(Parts, -1);                           // [B, T, 1] each
        return (outProjection.call(cat([m * weights[0], a * weights[1], c * weights[2]], -1)), sum);
    }

    /// <summary>Runs one path alone, with weight 1.</summary>
    /// <param name="path">The path.</param>
    /// <param name="x">[B, T, D].</param>
    /// <param name="context">Padding and packed rows.</param>
    /// <param name="states">States of <see cref="CreateParts"/> for the path, which are advanced, or null.</param>
    /// <returns>[B, T, D].</returns>
    private Tensor RunAlone(ParallelPath path, Tensor x, MixerContext context, CompositeState? states)
    {
        var y = path switch
        {
            ParallelPath.Mamba => mamba.forward(x, context.WithState(states?.Parts[0])),
            ParallelPath.Attention => attention.forward(x, context.WithState(states?.Parts[0])),
            _ => RunThree(x, context, states?.Parts[0], states?.Parts[1], states?.Parts[2]).Fused,
        };
        return functional.linear(y, outProjection.weight.narrow(1, (int)path * Width, Width));
    }

    private (Tensor Mamba, Tensor Attention, Tensor Fused) RunThree(
        Tensor x, MixerContext context, MixerState? mambaState, MixerState? attentionState, MixerState? fusionState)
    {
        var m = mamba.forward(x, context.WithState(mambaState));
        var a = attention.forward(x, context.WithState(attentionState));
        var (queries, source) = options.FusionQueries == ParallelPath.Mamba ? (m, a) : (a, m);
        return (m, a, fusion.CrossAttend(queries, source, context.WithState(fusionState)));
    }

    private static IReadOnlyList<long> Starts(MixerState? state, int sequences) => state?.Positions ?? new long[sequences];
}
