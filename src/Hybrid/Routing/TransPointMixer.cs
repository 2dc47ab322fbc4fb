using Hybrid.Attention;
using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Routing;

/// <summary>
/// One set of weights that is attention up to a token of the sequence and a state space after it (TransMamba; Li et al.,
/// arXiv 2503.24067). <c>[z; V; K; Q; dt] = W_in u</c>; <c>[V; K; Q] = SiLU(conv([V; K; Q]))</c>. The first P tokens of a sequence, P being
/// the TransPoint, are mixed by attention <c>softmax(Q K^T / sqrt N) V</c>, the later ones by state-space duality with x = V, B = K, C = Q
/// (Dao and Gu, arXiv 2405.21060) and skip D, from the state that <see cref="TransPointMemory"/> makes of the first. A gated RMS norm and
/// <c>W_out</c> end both. Parameter names are those of <see cref="Mixers.Mamba2Mixer"/>.
/// </summary>
/// <remarks>
/// Each sequence counts its own tokens, in padded and in packed rows too. Packed rows run both parts over the whole row and keep of each
/// what is its own, as do rows of one state that stand at different positions where they straddle P.
/// </remarks>
public sealed class TransPointMixer : SequenceMixer
{
    private readonly TransPointOptions options;
    private readonly long inner;
    private readonly long heads;
    private readonly long groups;
    private readonly SharedAttention attention;

    [ComponentName(Name = "in_proj")]
    private readonly Linear inProjection;

    [ComponentName(Name = "conv1d")]
    private readonly ShortConvolution convolution;

    [ComponentName(Name = "dt_bias")]
    private readonly Parameter stepBias;

    [ComponentName(Name = "A_log")]
    private readonly Parameter decayLog;

    [ComponentName(Name = "D")]
    private readonly Parameter skip;

    [ComponentName(Name = "norm")]
    private readonly GatedRmsNorm norm;

    [ComponentName(Name = "out_proj")]
    private readonly Linear outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">TransPoint and sizes; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public TransPointMixer(long width, TransPointOptions? options = null)
        : base(nameof(TransPointMixer), width)
    {
        this.options = options ??= new TransPointOptions();
        options.Validate(width);
        if (options.TransPoints is not null)
        {
            throw new ArgumentException(
                "TransPointOptions: TransPoints are for the layers of a backbone; a mixer of its own takes one TransPoint.", nameof(options));
        }

        TransPoint = options.TransPoint ?? TransPointOptions.DefaultTransPoint;
        inner = options.ExpandFactor * width;
        heads = inner / options.HeadDim;
        groups = options.NGroups ?? heads;
        attention = new SharedAttention(options, heads, groups);

        var matrixWidth = groups * options.DState;
        inProjection = Linear(width, (2 * inner) + (2 * matrixWidth) + heads, hasBias: options.UseBias);
        convolution = new ShortConvolution(inner + (2 * matrixWidth), options.DConv, options.UseConvBias, Activation.Silu);
        norm = new GatedRmsNorm(inner, options.NormEps);
        outProjection = Linear(inner, width, hasBias: options.UseBias);

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        stepBias = ModuleParameter.Own(StepSizeBias.LogUniform(heads, options.DtMin, options.DtMax, options.DtInitFloor));
        decayLog = ModuleParameter.Own(empty(heads).uniform_(1, 16).log());
        skip = ModuleParameter.Own(ones(heads));
        RegisterComponents();
    }

    /// <summary>Tokens P of a sequence that attention serves.</summary>
    public long TransPoint { get; }

    /// <summary>A_log, D and the step-size bias: decay would pull the dynamics towards fixed values.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => [decayLog, skip, stepBias];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var weight = inProjection.weight;
        return new TransPointState(
            this,
            zeros([batchSize, options.DConv - 1, convolution.Channels], dtype: weight.dtype, device: weight.device),
            zeros([batchSize, heads, options.HeadDim, options.DState], dtype: StatePrecision.Of(weight.dtype), device: weight.device),
            TransPoint == 0 ? null : CreateCache(batchSize));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context) => Mix(x, context, TransPoint);

    /// <summary>
    /// The switch gap: how far the two parts are apart where one hands over to the other. It runs the first P + 1 tokens twice, without
    /// gradients, and compares the layer's output for the last of them, which the state space computes, with what attention would have
    /// computed: <c>|y_ssm - y_attention| / |y_attention|</c> over the batch. A shadow evaluation on request: no forward pass computes it.
    /// </summary>
    /// <param name="x">Input [B, T, D], T above the TransPoint.</param>
    /// <returns>The relative L2 distance, 0 or more.</returns>
    /// <exception cref="ArgumentException">The input is of another shape, or no longer than the TransPoint.</exception>
    public double MeasureSwitchGap(Tensor x)
    {
        if (x.shape is not [_, var time, _] shape || time <= TransPoint)
        {
            throw new ArgumentException(
                $"{GetName()}: the switch gap needs x [B, T, {Width}] with T above the TransPoint, {TransPoint}; got [{string.Join(", ", x.shape)}].",
                nameof(x));
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var prefix = x.narrow(1, 0, TransPoint + 1);
        var switched = Mix(prefix, MixerContext.None, TransPoint).select(1, TransPoint).to_type(ScalarType.Float64);
        var attended = Mix(prefix, MixerContext.None, TransPoint + 1).select(1, TransPoint).to_type(ScalarType.Float64);
        return ((switched - attended).norm() / attended.norm()).ToDouble();
    }

    /// <summary>Tokens that attention still serves of a sequence that has consumed so many.</summary>
    internal long TokensBefore(long position) => Math.Max(0, TransPoint - position);

    /// <summary>An empty cache of the attention part.</summary>
    internal KeyValueState CreateCache(long batchSize) =>
        attention.CreateCache(batchSize, TransPoint, inProjection.weight.dtype, inProjection.weight.device);

    private Tensor Mix(Tensor x, MixerContext context, long transPoint)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<TransPointState>(context.State, batch.Size);

        var parts = LinearStep.Apply(inProjection, batch.Input).split([inner, convolution.Channels, heads], -1); // z, V|K|Q, dt
        var (convolved, window) = convolution.forward(parts[1], state?.Convolution, batch.Lengths, context.SequenceIds);
        var driven = convolved.split([inner, groups * options.DState, groups * options.DState], -1);        // V, K, Q
        var tokens = new SharedProjections(
            driven[2].unflatten(2, groups, options.DState),
            driven[1].unflatten(2, groups, options.DState),
            driven[0].unflatten(2, heads, options.HeadDim),
            parts[2]);

        var (y, recurrent) = context.SequenceIds is { } ids
            ? (MixPacked(tokens, ids, transPoint), null)
            : MixRows(tokens, batch, state, transPoint, context.PrefixLengths);
        var output = batch.End(LinearStep.Apply(outProjection, norm.call(y.flatten(2), parts[0])));

        state?.Update(window, recurrent!);
        state?.Advance(batch.Length, batch.Lengths);
        return output.MoveToOuterDisposeScope();
    }

    /// <summary>One sequence a row: attention over its tokens before the TransPoint, the state space over the others.</summary>
    /// <returns>Output [B, T, H, K], and the recurrent state [B, H, K, N]; null without a state.</returns>
    private (Tensor Y, Tensor? Recurrent) MixRows(
        SharedProjections tokens, MixerBatch batch, TransPointState? state, long transPoint, IReadOnlyList<long>? prefixLengths)
    {
        var time = batch.Length;
        var split = new TransPointSplit(state?.Positions ?? new long[batch.Size], time, batch.Lengths, transPoint, tokens.Value.device);
        var (least, most) = (split.Least, split.Most);
        var recurrent = state?.Recurrent;
        var pieces = new List<Tensor>();
        Tensor? attended = null;
        if (most > 0)
        {
            var early = tokens.Narrow(0, most);
            (attended, var keys, var values) = attention.Attend(
                early, state?.Cache, null, prefixLengths is null ? null : [.. prefixLengths.Select(prefix => Math.Min(prefix, most))]);
            pieces.Add(attended.narrow(1, 0, least));
            if (split.AnyCrosses && (state is not null || least < time))
            {
                var memory = state is null ? (early.Key, early.Value, early.Step) : attention.Recall(keys, values, StatePrecision.Of(keys.dtype));
                recurrent = Cross(memory, split, recurrent);
            }
        }

        if (least < time)
        {
            var mask = batch.Mask?.narrow(1, least, time - least);
            var isAttention = least < most ? split.IsAttention(least, time - least) : null;
            mask = isAttention is null ? mask : mask?.logical_and(isAttention.logical_not()) ?? isAttention.logical_not();
            (var y, recurrent) = Recur(tokens.Narrow(least, time - least), recurrent, mask, null);
            if (isAttention is not null)
            {
                var own = isAttention.narrow(1, 0, most - least).unsqueeze(-1).unsqueeze(-1);
                pieces.Add(where(own, attended!.narrow(1, least, most - least), y.narrow(1, 0, most - least)));
            }

            pieces.Add(y.narrow(1, most - least, time - most));
        }

        return (pieces.Count == 1 ? pieces[0] : cat(pieces, 1), recurrent);
    }

    /// <summary>Several sequences a row: both parts over the whole row, of which each token keeps its own.</summary>
    private Tensor MixPacked(SharedProjections tokens, Tensor ids, long transPoint)
    {
        if (transPoint == 0)
        {
            return Recur(tokens, null, null, PackedRows.Restarts(ids)).Y;
        }

        var (attended, _, _) = attention.Attend(tokens, null, ids);
        return transPoint >= ids.size(1)
            ? attended
            : where(
                PackedRows.SameSequence(ids, transPoint).unsqueeze(-1).unsqueeze(-1),
                Recur(tokens, null, null, PackedRows.Restarts(ids)).Y,
                attended);
    }

    /// <summary>The recurrent state of the rows that reach their TransPoint, made of all their tokens before it; the others keep theirs.</summary>
    private Tensor Cross((Tensor Keys, Tensor Values, Tensor Steps) memory, TransPointSplit split, Tensor? recurrent)
    {
        var precision = StatePrecision.Of(decayLog.dtype);
        var steps = StateSpaceDuality.StepSizes(
            memory.Steps.to_type(precision), stepBias.to_type(precision), softplus: true, min: null, max: null, split.MemorySlots(memory.Steps.size(1)));
        var converted = TransPointMemory.Convert(memory.Keys, memory.Values, steps, Decay());
        return recurrent is not null && split.CrossingRows() is { } rows ? where(rows, converted, recurrent) : converted;
    }

    private (Tensor Y, Tensor FinalState) Recur(SharedProjections tokens, Tensor? recurrent, Tensor? mask, Tensor? restart) =>
        StateSpaceDuality.Apply(
            tokens.Value,
            tokens.Step,
            Decay(),
            tokens.Key,
            tokens.Query,
            skip,
            dtBias: stepBias,
            dtSoftplus: true,
            initialState: recurrent,
            mask: mask,
            restart: restart,
            chunkSize: options.ChunkSize,
            stateGradient: false);

    /// <summary>A = -exp(A_log), [H], in the precision of the state.</summary>
    private Tensor Decay() => decayLog.to_type(StatePrecision.Of(decayLog.dtype)).exp().neg();
}
