using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="GatedDeltaNetMixer"/>.</summary>
public sealed record GatedDeltaNetOptions
{
    /// <summary>Heads of queries and keys; at least 1. Default 4.</summary>
    public long NumKeyHeads { get; init; } = 4;

    /// <summary>Heads H of values, a multiple of the key heads; each key head serves as many in a row. Null means as many as key heads.</summary>
    public long? NumValueHeads { get; init; }

    /// <summary>Width K of a query or key; at least 1. Null means D / key heads, which must divide.</summary>
    public long? KeyHeadDim { get; init; }

    /// <summary>Width V of a value; at least 1. Null means as wide as a key.</summary>
    public long? ValueHeadDim { get; init; }

    /// <summary>Taps W of the short convolution; at least 1. Default 4.</summary>
    public long DConv { get; init; } = 4;

    /// <summary>Smallest initial step size. Default 0.001.</summary>
    public double DtMin { get; init; } = 1e-3;

    /// <summary>Largest initial step size. Default 0.1.</summary>
    public double DtMax { get; init; } = 0.1;

    /// <summary>Epsilon of the output norm. Default 1e-6.</summary>
    public double NormEps { get; init; } = 1e-6;

    /// <summary>The number of value heads H.</summary>
    /// <returns><see cref="NumValueHeads"/> or <see cref="NumKeyHeads"/>.</returns>
    public long ResolveNumValueHeads() => NumValueHeads ?? NumKeyHeads;

    /// <summary>The width of a key for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="KeyHeadDim"/> or D / key heads.</returns>
    /// <exception cref="ArgumentException">The key heads do not divide D and no width is given.</exception>
    public long ResolveKeyHeadDim(long width) => KeyHeadDim ?? (width % NumKeyHeads == 0
        ? width / NumKeyHeads
        : throw new ArgumentException(
            $"GatedDeltaNetOptions.NumKeyHeads must divide the width {width} where KeyHeadDim is not given; got {NumKeyHeads}.", nameof(width)));

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(GatedDeltaNetOptions), nameof(NumKeyHeads), NumKeyHeads, 1);
        OptionRange.AtLeast(nameof(GatedDeltaNetOptions), nameof(NumValueHeads), NumValueHeads ?? 1, 1);
        OptionRange.AtLeast(nameof(GatedDeltaNetOptions), nameof(KeyHeadDim), KeyHeadDim ?? 1, 1);
        OptionRange.AtLeast(nameof(GatedDeltaNetOptions), nameof(ValueHeadDim), ValueHeadDim ?? 1, 1);
        OptionRange.AtLeast(nameof(GatedDeltaNetOptions), nameof(DConv), DConv, 1);
        OptionRange.Positive(nameof(GatedDeltaNetOptions), nameof(DtMin), DtMin);
        OptionRange.Positive(nameof(GatedDeltaNetOptions), nameof(DtMax), DtMax);
        OptionRange.AtLeast(nameof(GatedDeltaNetOptions), nameof(DtMax), DtMax, DtMin);
        OptionRange.Positive(nameof(GatedDeltaNetOptions), nameof(NormEps), NormEps);
        if (ResolveNumValueHeads() % NumKeyHeads != 0)
        {
            throw new ArgumentOutOfRangeException(
                nameof(NumValueHeads), NumValueHeads,
                $"{nameof(GatedDeltaNetOptions)}.{nameof(NumValueHeads)} must be a multiple of the {NumKeyHeads} key heads; got {NumValueHeads}.");
        }
    }
}

/// <summary>State of a <see cref="GatedDeltaNetMixer"/>: the convolution's window and the recurrent state.</summary>
public sealed class GatedDeltaNetState : MixerState
{
    internal GatedDeltaNetState(Tensor convolution, Tensor recurrent)
        : base(recurrent.size(0), ("conv", convolution), ("delta", recurrent))
    {
    }

    /// <summary>The last W - 1 inputs of the convolution, all q, all k, all v, oldest first, in the dtype of the weights.</summary>
    public Tensor Convolution => this[0];

    /// <summary>The state S: [B, H, K, V], float32 (float64 with float64 weights).</summary>
    public Tensor Recurrent => this[1];

    internal void Update(Tensor convolution, Tensor recurrent)
    {
        Set(0, convolution);
        Set(1, recurrent);
    }
}

/// <summary>
/// Gated DeltaNet (Yang, Kautz and Hatamizadeh, arXiv 2412.06464) in the form of Qwen3-Next: <c>q, k, v = SiLU(conv(W x))</c>, q and k
/// of unit length, <c>beta = sigmoid(b)</c>, <c>g = -exp(A_log) softplus(a + dt_bias)</c>, the gated delta rule for each value head,
/// <c>RMS(o) w * SiLU(z)</c> for each value head, <c>W_o</c>. Parameter names are those of the checkpoints.
/// </summary>
public sealed class GatedDeltaNetMixer : SequenceMixer
{
    private readonly GatedDeltaNetOptions options;
    private readonly long valueHeads;
    private readonly long shared;
    private readonly long keyWidth;
    private readonly long valueWidth;

    [ComponentName(Name = "in_proj_qkvz")]
    private readonly Linear inProjection;

    [ComponentName(Name = "in_proj_ba")]
    private readonly Linear gateProjection;

    [ComponentName(Name = "conv1d")]
    private readonly ShortConvolution convolution;

    [ComponentName(Name = "dt_bias")]
    private readonly Parameter stepBias;

    [ComponentName(Name = "A_log")]
    private readonly Parameter decayLog;

    [ComponentName(Name = "norm")]
    private readonly GatedRmsNorm outputNorm;

    [ComponentName(Name = "out_proj")]
    private readonly Linear outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or the key heads do not divide D.</exception>
    public GatedDeltaNetMixer(long width, GatedDeltaNetOptions? options = null)
        : base(nameof(GatedDeltaNetMixer), width)
    {
        this.options = options ??= new GatedDeltaNetOptions();
        options.Validate();
        valueHeads = options.ResolveNumValueHeads();
        shared = valueHeads / options.NumKeyHeads;
        keyWidth = options.ResolveKeyHeadDim(width);
        valueWidth = options.ValueHeadDim ?? keyWidth;

        inProjection = ModuleParameter.Linear(width, 2 * (KeyChannels + ValueChannels), hasBias: false);
        gateProjection = ModuleParameter.Linear(width, 2 * valueHeads, hasBias: false);
        convolution = new ShortConvolution((2 * KeyChannels) + ValueChannels, options.DConv, hasBias: false);
        outputNorm = new GatedRmsNorm(valueWidth, options.NormEps, normBeforeGate: true);
        outProjection = ModuleParameter.Linear(ValueChannels, width, hasBias: false);

        // As in Mamba-2: decay rates uniform in 1..16, step sizes log-uniform, so that heads cover short and long memory.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        decayLog = ModuleParameter.Own(empty(valueHeads).uniform_(1, 16).log());
        stepBias = ModuleParameter.Own(StepSizeBias.LogUniform(valueHeads, options.DtMin, options.DtMax));
        RegisterComponents();
    }

    /// <summary>A_log and dt_bias: decay would pull the dynamics towards fixed values.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => [decayLog, stepBias];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    private long KeyChannels => options.NumKeyHeads * keyWidth;

    private long ValueChannels => valueHeads * valueWidth;

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var weight = inProjection.weight;
        return new GatedDeltaNetState(
            zeros([batchSize, options.DConv - 1, convolution.Channels], dtype: weight.dtype, device: weight.device),
            zeros([batchSize, valueHeads, keyWidth, valueWidth], dtype: StatePrecision.Of(weight.dtype), device: weight.device));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context) => Step(x, context) ?? Mix(x, context);

    private Tensor Mix(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<GatedDeltaNetState>(context.State, batch.Size);

        var (mixed, z) = Project(batch.Input);                                           // [B, T, all q | all k | all v], [B, T, H, V]
        var (beta, logDecay) = Gates(batch.Input);                                       // [B, T, H] each
        var (convolved, window) = convolution.forward(mixed, state?.Convolution, batch.Lengths, context.SequenceIds);
        var parts = convolved.split([KeyChannels, KeyChannels, ValueChannels], -1);

        var (o, recurrent) = GatedDelta.Apply(
            PerValueHead(parts[0]), PerValueHead(parts[1]), parts[2].unflatten(2, valueHeads, valueWidth), beta, logDecay,
            normalise: true, initialState: state?.Recurrent, mask: batch.Mask, restart: PackedRows.Restarts(context.SequenceIds),
            stateGradient: false);

        state?.Update(window, recurrent);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(LinearStep.Apply(outProjection, outputNorm.call(o, z).flatten(2))).MoveToOuterDisposeScope();
    }

    /// <summary>One token with all between the projections in one kernel, in place on the state; null where that kernel cannot run.</summary>
    private Tensor? Step(Tensor x, MixerContext context)
    {
        if (context.State is null || is_grad_enabled() || x.Dimensions != 3 || x.size(1) != 1)
        {
            return null;
        }

        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<GatedDeltaNetState>(context.State, batch.Size)!;
        var layer = new DeltaStepLayer(convolution.Weight, stepBias, decayLog, outputNorm, options.NumKeyHeads);
        if (!DeltaStep.CanRun(x, layer, state.Convolution, state.Recurrent))
        {
            return null;
        }

        using var projected = LinearStep.Apply(inProjection, batch.Input);               // q, k, v, z of each key head
        using var gates = LinearStep.Apply(gateProjection, batch.Input);                 // b, a of each key head
        using var o = DeltaStep.Apply(projected, gates, layer, state.Convolution, state.Recurrent);
        state.Advance(batch.Length, batch.Lengths);
        return LinearStep.Apply(outProjection, o);
    }

    /// <summary>The projection stores q, k, v and z of one key head after the other; the convolution wants all q, all k, all v.</summary>
    private (Tensor Mixed, Tensor Gate) Project(Tensor x)
    {
        var parts = LinearStep.Apply(inProjection, x).unflatten(2, options.NumKeyHeads, -1)
            .split([keyWidth, keyWidth, shared * valueWidth, shared * valueWidth], -1);
        return (cat([parts[0].flatten(2), parts[1].flatten(2), parts[2].flatten(2)], -1),
            parts[3].flatten(2).unflatten(2, valueHeads, valueWidth));
    }

    /// <summary>beta = sigmoid(b) and g = -exp(A_log) softplus(a + dt_bias), in the precision of the state; b and a by key head.</summary>
    private (Tensor Beta, Tensor LogDecay) Gates(Tensor x)
    {
        var type = StatePrecision.Of(decayLog.dtype);
        var parts = LinearStep.Apply(gateProjection, x).unflatten(2, options.NumKeyHeads, -1).split([shared, shared], -1);
        var step = (parts[1].flatten(2).to_type(type) + stepBias.to_type(type)).softplus();
        return (parts[0].flatten(2).to_type(type).sigmoid(), step * decayLog.to_type(type).exp().neg());
    }

    /// <summary>[B, T, key heads * K] to [B, T, H, K]: a key head for each value head that shares it.</summary>
    private Tensor PerValueHead(Tensor x)
    {
        var heads = x.unflatten(2, options.NumKeyHeads, keyWidth);
        return shared == 1 ? heads : heads.repeat_interleave(shared, 2);
    }
}
