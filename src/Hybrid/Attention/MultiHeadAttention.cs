using Hybrid.Kernels;
using Hybrid.Kernels.Cuda;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>Options of <see cref="MultiHeadAttention"/>.</summary>
public sealed record AttentionOptions
{
    /// <summary>Query heads H; at least 1. Default 8.</summary>
    public long NumHeads { get; init; } = 8;

    /// <summary>Key and value heads, a divisor of <see cref="NumHeads"/>; null means as many (1 is multi-query attention).</summary>
    public long? NumKeyValueHeads { get; init; }

    /// <summary>Width K of a head; null means D / H.</summary>
    public long? HeadDim { get; init; }

    /// <summary>Rotary position embedding on queries and keys. Default true.</summary>
    public bool UseRope { get; init; } = true;

    /// <summary>Base of the rotary frequencies. Default 10,000.</summary>
    public double RopeTheta { get; init; } = 10_000;

    /// <summary>Stretch of the rotary frequencies for sequences longer than those of the training. Default none.</summary>
    public RopeScaling RopeScaling { get; init; } = new();

    /// <summary>Share of each head's channels that turns, above 0 up to 1. Default 1.</summary>
    public double PartialRotaryFactor { get; init; } = 1;

    /// <summary>Normalises queries and keys per head (mean 0, population variance 1, epsilon 1e-6, no weights). Default false.</summary>
    public bool QkLayernorm { get; init; }

    /// <summary>
    /// RMS norm of queries and keys per head before the rotation, with a factor of 1 + weight (Qwen3-Next); excludes
    /// <see cref="QkLayernorm"/>. Default false.
    /// </summary>
    public bool QkRmsNorm { get; init; }

    /// <summary>Epsilon of that norm; positive. Default 1e-6.</summary>
    public double QkRmsNormEps { get; init; } = 1e-6;

    /// <summary>
    /// Multiplies each head's output by the sigmoid of a gate, which the query projection gives beside the query, head by head
    /// (Qwen3-Next; Qiu et al., arXiv 2505.06708). Default false.
    /// </summary>
    public bool UseOutputGate { get; init; }

    /// <summary>Factor of the keys; positive. Default 1.</summary>
    public double KeyMultiplier { get; init; } = 1;

    /// <summary>Keys that a token sees, itself counted, besides those of a prefix that it is in; null means all before it.</summary>
    public long? WindowSize { get; init; }

    /// <summary>Factor of the scores; null means 1 / sqrt K.</summary>
    public double? Scale { get; init; }

    /// <summary>Bends scores s to <c>cap * tanh(s / cap)</c>, so that none exceeds the cap; null means not.</summary>
    public double? SoftCap { get; init; }

    /// <summary>How the scores are computed; the numbers are the same. Default dense.</summary>
    public AttentionMode Mode { get; init; }

    /// <summary>Queries of a chunk, and keys of one in the online mode; at least 1. Default 32.</summary>
    public long ChunkSize { get; init; } = 32;

    /// <summary>Adds biases to the query, key and value projections. Default false.</summary>
    public bool UseBias { get; init; }

    /// <summary>Adds a bias to the output projection. Default false.</summary>
    public bool UseOutputBias { get; init; }

    /// <summary>Dropout on the attention weights while training. Default 0.</summary>
    public double DropoutRate { get; init; }

    /// <summary>Longest sequence that a state takes; null means no limit.</summary>
    public long? MaxLength { get; init; }

    /// <summary>Channels of a head that turn.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns>The share of the head width, rounded down.</returns>
    internal long RotaryWidth(long width) => (long)((HeadDim ?? (width / NumHeads)) * PartialRotaryFactor);

    /// <summary>Throws where a value is out of its range or does not fit the width.</summary>
    /// <param name="width">Model width D.</param>
    public void Validate(long width)
    {
        OptionRange.AtLeast(nameof(AttentionOptions), nameof(NumHeads), NumHeads, 1);
        OptionRange.AtLeast(nameof(AttentionOptions), nameof(NumKeyValueHeads), NumKeyValueHeads ?? 1, 1);
        OptionRange.AtLeast(nameof(AttentionOptions), nameof(HeadDim), HeadDim ?? 1, 1);
        OptionRange.AtLeast(nameof(AttentionOptions), nameof(WindowSize), WindowSize ?? 1, 1);
        OptionRange.AtLeast(nameof(AttentionOptions), nameof(ChunkSize), ChunkSize, 1);
        OptionRange.AtLeast(nameof(AttentionOptions), nameof(MaxLength), MaxLength ?? 1, 1);
        OptionRange.Positive(nameof(AttentionOptions), nameof(RopeTheta), RopeTheta);
        OptionRange.Positive(nameof(AttentionOptions), nameof(Scale), Scale ?? 1);
        OptionRange.Positive(nameof(AttentionOptions), nameof(SoftCap), SoftCap ?? 1);
        OptionRange.Positive(nameof(AttentionOptions), nameof(PartialRotaryFactor), PartialRotaryFactor);
        OptionRange.Between(nameof(AttentionOptions), nameof(PartialRotaryFactor), PartialRotaryFactor, 0, 1);
        OptionRange.DropRate(nameof(AttentionOptions), nameof(DropoutRate), DropoutRate);
        OptionRange.Positive(nameof(AttentionOptions), nameof(QkRmsNormEps), QkRmsNormEps);
        OptionRange.Positive(nameof(AttentionOptions), nameof(KeyMultiplier), KeyMultiplier);
        RopeScaling.Validate();
        if (QkLayernorm && QkRmsNorm)
        {
            throw new ArgumentException("AttentionOptions: QkLayernorm and QkRmsNorm exclude each other; got both.", nameof(QkRmsNorm));
        }

        if (NumHeads % (NumKeyValueHeads ?? NumHeads) != 0)
        {
            throw new ArgumentException(
                $"AttentionOptions: NumKeyValueHeads must divide NumHeads, {NumHeads}; got {NumKeyValueHeads}.", nameof(NumKeyValueHeads));
        }

        if (HeadDim is null && width % NumHeads != 0)
        {
            throw new ArgumentException(
                $"AttentionOptions: the width, {width}, must be a multiple of NumHeads, {NumHeads}, unless HeadDim is set.", nameof(NumHeads));
        }

        if (UseRope && RotaryWidth(width) is var rotary && (rotary < 2 || rotary % 2 != 0))
        {
            throw new ArgumentException(
                $"AttentionOptions: HeadDim times PartialRotaryFactor, the channels that turn, must be even and positive; got {rotary}.",
                nameof(HeadDim));
        }
    }
}

/// <summary>
/// Causal multi-head attention (Vaswani et al., arXiv 1706.03762) with grouped key and value heads (Ainslie et al., arXiv 2305.13245),
/// optional rotary positions, query-key norm, sliding window and soft cap, over a preallocated cache:
/// <c>softmax(Q K^T / sqrt K) V</c>, key j being visible to token t when <c>t - w &lt; j &lt;= t</c>, or where both
/// are in the prefix of the sequence (<see cref="MixerContext.PrefixLengths"/>), whatever the window.
/// </summary>
public sealed class MultiHeadAttention : SequenceMixer, IResidualStep
{
    private const double QueryKeyNormEpsilon = 1e-6;

    private readonly AttentionOptions options;
    private readonly long heads;
    private readonly long keyValueHeads;
    private readonly long headWidth;
    private readonly RotaryEmbedding? rotary;

    // True where queries, keys and values are what the projections give, and the output what the values do.
    private readonly bool projectsAlone;

    [ComponentName(Name = "q_proj")]
    private readonly Linear queryProjection;

    [ComponentName(Name = "k_proj")]
    private readonly Linear keyProjection;

    [ComponentName(Name = "v_proj")]
    private readonly Linear valueProjection;

    [ComponentName(Name = "o_proj")]
    private readonly Linear outProjection;

    [ComponentName(Name = "q_norm")]
    private readonly RmsNorm? queryNorm;

    [ComponentName(Name = "k_norm")]
    private readonly RmsNorm? keyNorm;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Heads and variants; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public MultiHeadAttention(long width, AttentionOptions? options = null)
        : base(nameof(MultiHeadAttention), width)
    {
        this.options = options ??= new AttentionOptions();
        options.Validate(width);
        heads = options.NumHeads;
        keyValueHeads = options.NumKeyValueHeads ?? heads;
        projectsAlone = options is { QkLayernorm: false, QkRmsNorm: false, UseOutputGate: false, KeyMultiplier: 1 };
        headWidth = options.HeadDim ?? (width / heads);
        queryProjection = ModuleParameter.Linear(width, heads * headWidth * (options.UseOutputGate ? 2 : 1), hasBias: options.UseBias);
        keyProjection = ModuleParameter.Linear(width, keyValueHeads * headWidth, hasBias: options.UseBias);
        valueProjection = ModuleParameter.Linear(width, keyValueHeads * headWidth, hasBias: options.UseBias);
        outProjection = ModuleParameter.Linear(heads * headWidth, width, hasBias: options.UseOutputBias);
        if (options.UseRope)
        {
            rotary = new RotaryEmbedding(options.RotaryWidth(width), options.RopeTheta, options.RopeScaling);
        }

        if (options.QkRmsNorm)
        {
            queryNorm = new RmsNorm(headWidth, options.QkRmsNormEps, NormScale.OnePlusWeight);
            keyNorm = new RmsNorm(headWidth, options.QkRmsNormEps, NormScale.OnePlusWeight);
        }

        RegisterComponents();
    }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        var weight = keyProjection.weight;
        return KeyValueState.Create(
            batchSize, keyValueHeads, headWidth, options.MaxLength, options.WindowSize, rotary?.Settings ?? "none", weight.dtype, weight.device);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context) => ((IResidualStep)this).Step(x, context, null) ?? CrossAttend(x, x, context);

    /// <summary>One token with all between the projections in one kernel, which writes into the cache; null where that kernel cannot run.</summary>
    Tensor? IResidualStep.Step(Tensor x, MixerContext context, Tensor? residual)
    {
        if (!CudaRuntime.Holds(x) || !projectsAlone || (training && options.DropoutRate > 0) || is_grad_enabled() || x.Dimensions != 3 || x.size(1) != 1
            || context is not { State: not null, Lengths: null, SequenceIds: null, PrefixLengths: null })
        {
            return null;
        }

        var batch = MixerBatch.Begin(this, x, context, queryProjection.weight.dtype);
        var state = RequireState<KeyValueState>(context.State, batch.Size)!;
        state.EnsureRoom(batch.Length, batch.Lengths);
        if (AttentionStepOnCuda.For(x, state, rotary) is not { } kernel)
        {
            return null;
        }

        using var lease = StepBuffers.For(context);
        var query = LinearStep.Apply(queryProjection, batch.Input, lease.Buffers);
        var key = LinearStep.Apply(keyProjection, batch.Input, lease.Buffers);
        var value = LinearStep.Apply(valueProjection, batch.Input, lease.Buffers);
        var joined = kernel.Apply(query, key, value, state, options, rotary, lease.Buffers);
        state.Advance(batch.Length, batch.Lengths);
        return lease.Result(LinearStep.Apply(outProjection, joined, lease.Buffers, residual));
    }

    /// <summary>Causal cross attention: token t of one stream sees the tokens up to t of another.</summary>
    /// <param name="queries">The stream that asks [B, T, D]; where it is not <paramref name="x"/> itself, its rows have no left padding.</param>
    /// <param name="x">The stream of keys and values [B, T, D].</param>
    /// <param name="context">State, padding and packed rows of both.</param>
    /// <returns>[B, T, D].</returns>
    internal Tensor CrossAttend(Tensor queries, Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, queryProjection.weight.dtype);
        var state = RequireState<KeyValueState>(context.State, batch.Size);
        state?.EnsureRoom(batch.Length, batch.Lengths);

        var asking = ReferenceEquals(queries, x) ? batch.Input : queries;
        var (query, gate) = ProjectQuery(asking, batch);                                 // [B, H, T, K], [B, T, H K]
        var key = SplitHeads(LinearStep.Apply(keyProjection, batch.Input), keyValueHeads, batch);
        var value = SplitHeads(LinearStep.Apply(valueProjection, batch.Input), keyValueHeads, batch);
        if (options.QkLayernorm)
        {
            query = functional.layer_norm(query, [headWidth], eps: QueryKeyNormEpsilon);
            key = functional.layer_norm(key, [headWidth], eps: QueryKeyNormEpsilon);
        }

        query = queryNorm?.call(query) ?? query;
        key = keyNorm?.call(key) ?? key;
        key = options.KeyMultiplier == 1 ? key : key * options.KeyMultiplier;

        var joined = CachedAttention.Apply(query, key, value, options, rotary, batch, context, state, training);
        joined = gate is null ? joined : joined * gate.sigmoid();
        return batch.End(LinearStep.Apply(outProjection, joined)).MoveToOuterDisposeScope();
    }

    /// <summary>Queries, and with an output gate what stands beside each head's query.</summary>
    private (Tensor Query, Tensor? Gate) ProjectQuery(Tensor asking, MixerBatch batch)
    {
        var projected = LinearStep.Apply(queryProjection, asking);
        if (!options.UseOutputGate)
        {
            return (SplitHeads(projected, heads, batch), null);
        }

        var halves = projected.view(batch.Size, batch.Length, heads, 2 * headWidth).chunk(2, -1);
        return (halves[0].transpose(1, 2), halves[1].reshape(batch.Size, batch.Length, heads * headWidth));
    }

    private Tensor SplitHeads(Tensor projected, long count, MixerBatch batch) =>
        projected.view(batch.Size, batch.Length, count, headWidth).transpose(1, 2);
}
