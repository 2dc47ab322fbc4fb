using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="Mamba2Mixer"/>. Defaults are those of the paper.</summary>
public sealed record Mamba2Options
{
    /// <summary>State size N of each channel; at least 1. Default 128.</summary>
    public long DState { get; init; } = 128;

    /// <summary>Taps W of the short convolution; at least 1. Default 4.</summary>
    public long DConv { get; init; } = 4;

    /// <summary>Inner width E as a multiple of the model width; at least 1. Default 2.</summary>
    public long ExpandFactor { get; init; } = 2;

    /// <summary>Inner width E itself, at least 1, in the place of <see cref="ExpandFactor"/>; null, the default, means E = D times that.</summary>
    public long? InnerSize { get; init; }

    /// <summary>Width P of a head, a divisor of the inner width E; there are H = E / P heads. Default 64.</summary>
    public long HeadDim { get; init; } = 64;

    /// <summary>Groups G of heads that share B and C, a divisor of the number of heads. Default 1.</summary>
    public long NGroups { get; init; } = 1;

    /// <summary>Longest chunk of the matrix form; at least 1. It trades memory for speed and changes no result. Default 64.</summary>
    public long ChunkSize { get; init; } = StateSpaceDuality.DefaultChunkSize;

    /// <summary>Smallest initial step size. Default 0.001.</summary>
    public double DtMin { get; init; } = 1e-3;

    /// <summary>Largest initial step size. Default 0.1.</summary>
    public double DtMax { get; init; } = 0.1;

    /// <summary>Floor of the initial step size. Default 1e-4.</summary>
    public double DtInitFloor { get; init; } = 1e-4;

    /// <summary>Lower bound of the step size after the softplus; null means none.</summary>
    public double? DtLimitMin { get; init; }

    /// <summary>Upper bound of the step size after the softplus; null means none.</summary>
    public double? DtLimitMax { get; init; }

    /// <summary>Adds a bias to the convolution. Default true.</summary>
    public bool UseConvBias { get; init; } = true;

    /// <summary>Adds biases to the input and output projections. Default false.</summary>
    public bool UseBias { get; init; }

    /// <summary>Adds a bias to the output projection; null, the default, means as <see cref="UseBias"/> says.</summary>
    public bool? UseOutputBias { get; init; }

    /// <summary>Factor of the input; positive. Default 1.</summary>
    public double InputMultiplier { get; init; } = 1;

    /// <summary>Factors of z, x, B, C and dt as the input projection gives them, five positive numbers (Falcon-H1); null, the default, means 1 each.</summary>
    public IReadOnlyList<double>? ProjectionMultipliers { get; init; }

    /// <summary>The RMS norm before the output (true, the default); false leaves the gate alone, <c>y SiLU(z)</c>, as Falcon-H1 can have it.</summary>
    public bool UseNorm { get; init; } = true;

    /// <summary>
    /// Groups of channels that the norm before the output normalises apart, a divisor of the inner width. Default 1; Zamba2 has as many
    /// as <see cref="NGroups"/>.
    /// </summary>
    public long NormGroups { get; init; } = 1;

    /// <summary>True to normalise before the gate; false to normalise what was gated, as the released models do. Default false.</summary>
    public bool NormBeforeGate { get; init; }

    /// <summary>Epsilon of the norm. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>The inner width for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="InnerSize"/> or D times <see cref="ExpandFactor"/>.</returns>
    public long ResolveInnerSize(long width) => InnerSize ?? ExpandFactor * width;

    /// <summary>Throws where a value is out of its range or does not fit the width.</summary>
    /// <param name="width">Model width D.</param>
    public void Validate(long width)
    {
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(DState), DState, 1);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(DConv), DConv, 1);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(ExpandFactor), ExpandFactor, 1);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(InnerSize), InnerSize ?? 1, 1);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(HeadDim), HeadDim, 1);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(NGroups), NGroups, 1);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(ChunkSize), ChunkSize, 1);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(NormGroups), NormGroups, 1);
        OptionRange.Positive(nameof(Mamba2Options), nameof(DtMin), DtMin);
        OptionRange.Positive(nameof(Mamba2Options), nameof(DtMax), DtMax);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(DtMax), DtMax, DtMin);
        OptionRange.Positive(nameof(Mamba2Options), nameof(DtInitFloor), DtInitFloor);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(DtLimitMin), DtLimitMin ?? 0, 0);
        OptionRange.AtLeast(nameof(Mamba2Options), nameof(DtLimitMax), DtLimitMax ?? double.PositiveInfinity, DtLimitMin ?? 0);
        OptionRange.Positive(nameof(Mamba2Options), nameof(NormEps), NormEps);
        OptionRange.Positive(nameof(Mamba2Options), nameof(InputMultiplier), InputMultiplier);
        RequireFivePositive(ProjectionMultipliers);
        var inner = ResolveInnerSize(width);
        RequireDivisor(nameof(HeadDim), HeadDim, "the inner width", inner);
        RequireDivisor(nameof(NGroups), NGroups, "the number of heads", inner / HeadDim);
        RequireDivisor(nameof(NormGroups), NormGroups, "the inner width", inner);
    }

    private static void RequireFivePositive(IReadOnlyList<double>? multipliers)
    {
        if (multipliers is not null && (multipliers.Count != 5 || !multipliers.All(multiplier => multiplier > 0 && double.IsFinite(multiplier))))
        {
            throw new ArgumentException(
                $"Mamba2Options: ProjectionMultipliers must be five positive numbers, of z, x, B, C and dt; got [{string.Join(", ", multipliers)}].",
                nameof(ProjectionMultipliers));
        }
    }

    private static void RequireDivisor(string option, long value, string what, long multiple)
    {
        if (multiple % value != 0)
        {
            throw new ArgumentException($"Mamba2Options: {option} must divide {what}, {multiple}; got {value}.", option);
        }
    }
}

/// <summary>State of a <see cref="Mamba2Mixer"/>: the convolution's window and the recurrent state.</summary>
public sealed class Mamba2State : MixerState
{
    internal Mamba2State(Tensor convolution, Tensor recurrent)
        : base(recurrent.size(0), ("conv", convolution), ("ssm", recurrent))
    {
    }

    /// <summary>The last W - 1 inputs of the convolution (x, B, C), oldest first: [B, W - 1, E + 2 G N] in the dtype of the weights.</summary>
    public Tensor Convolution => this[0];

    /// <summary>The state S: [B, H, P, N], float32 (float64 with float64 weights).</summary>
    public Tensor Recurrent => this[1];

    internal void Update(Tensor convolution, Tensor recurrent)
    {
        Set(0, convolution);
        Set(1, recurrent);
    }
}

/// <summary>
/// The Mamba-2 mixer (Dao and Gu, arXiv 2405.21060): a state space with one scalar decay a head behind a short convolution.
/// <c>[z; x; B; C; dt] = W_in u</c>; <c>[x; B; C] = SiLU(conv([x; B; C]))</c>; <c>dt = softplus(dt + dt_bias)</c>;
/// <c>A = -exp(A_log)</c>; state-space duality with skip D; gated RMS norm; <c>W_out</c>. Parameter names are those of mamba_ssm
/// checkpoints.
/// </summary>
public sealed class Mamba2Mixer : SequenceMixer, IResidualStep
{
    private readonly Mamba2Options options;
    private readonly long inner;
    private readonly long heads;
    private readonly long matrixWidth;

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
    private readonly GatedRmsNorm? norm;

    [ComponentName(Name = "out_proj")]
    private readonly Linear outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes and variants; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public Mamba2Mixer(long width, Mamba2Options? options = null)
        : base(nameof(Mamba2Mixer), width)
    {
        this.options = options ??= new Mamba2Options();
        options.Validate(width);
        inner = options.ResolveInnerSize(width);
        heads = inner / options.HeadDim;
        matrixWidth = options.NGroups * options.DState;

        inProjection = ModuleParameter.Linear(width, (2 * inner) + (2 * matrixWidth) + heads, hasBias: options.UseBias);
        convolution = new ShortConvolution(inner + (2 * matrixWidth), options.DConv, options.UseConvBias, Activation.Silu);
        norm = options.UseNorm ? new GatedRmsNorm(inner, options.NormEps, options.NormBeforeGate, options.NormGroups) : null;
        outProjection = ModuleParameter.Linear(inner, width, hasBias: options.UseOutputBias ?? options.UseBias);

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        stepBias = ModuleParameter.Own(StepSizeBias.LogUniform(heads, options.DtMin, options.DtMax, options.DtInitFloor));
        decayLog = ModuleParameter.Own(empty(heads).uniform_(1, 16).log());
        skip = ModuleParameter.Own(ones(heads));
        RegisterComponents();
    }

    /// <summary>Inner width E.</summary>
    public long InnerWidth => inner;

    /// <summary>Heads H of width P.</summary>
    public long Heads => heads;

    /// <summary>The dtype of the weights.</summary>
    internal ScalarType Type => inProjection.weight.dtype;

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
        return new Mamba2State(
            zeros([batchSize, options.DConv - 1, convolution.Channels], dtype: weight.dtype, device: weight.device),
            zeros([batchSize, heads, options.HeadDim, options.DState], dtype: StatePrecision.Of(weight.dtype), device: weight.device));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context) => ((IResidualStep)this).Step(x, context, null) ?? Mix(x, context);

    private Tensor Mix(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<Mamba2State>(context.State, batch.Size);

        var parts = Project(batch.Input).split([inner, convolution.Channels, heads], -1);               // z, x|B|C, dt
        var (convolved, window) = convolution.forward(parts[1], state?.Convolution, batch.Lengths, context.SequenceIds);
        var driven = convolved.split([inner, matrixWidth, matrixWidth], -1);                            // x, B, C

        var (y, recurrent) = StateSpaceDuality.Apply(
            driven[0].unflatten(2, heads, options.HeadDim),                                            // [B, T, H, P]
            parts[2],                                                                                   // [B, T, H]
            Decay(),
            driven[1].unflatten(2, options.NGroups, options.DState),                                   // [B, T, G, N]
            driven[2].unflatten(2, options.NGroups, options.DState),
            skip,
            dtBias: stepBias,
            dtSoftplus: true,
            dtMin: options.DtLimitMin,
            dtMax: options.DtLimitMax,
            initialState: state?.Recurrent,
            mask: batch.Mask,
            restart: PackedRows.Restarts(context.SequenceIds),
            chunkSize: options.ChunkSize,
            stateGradient: false);
        var gated = norm is null ? y.flatten(2) * parts[0].silu() : norm.call(y.flatten(2), parts[0]);

        state?.Update(window, recurrent);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(LinearStep.Apply(outProjection, gated)).MoveToOuterDisposeScope();
    }

    /// <summary>The input projection [B, T, 2 E + 2 G N + H] with the multipliers of its input and its parts.</summary>
    private Tensor Project(Tensor x)
    {
        using var scope = NewDisposeScope();
        var projected = LinearStep.Apply(inProjection, options.InputMultiplier == 1 ? x : x * options.InputMultiplier);
        if (options.ProjectionMultipliers is not { } multipliers)
        {
            return projected.MoveToOuterDisposeScope();
        }

        long[] sizes = [inner, inner, matrixWidth, matrixWidth, heads];
        var factors = sizes.Zip(multipliers, (size, factor) => full(size, factor, dtype: projected.dtype, device: projected.device));
        return (projected * cat([.. factors], 0)).MoveToOuterDisposeScope();
    }

    /// <summary>One token with all between the projections in one kernel, in place on the state; null where that kernel cannot run.</summary>
    Tensor? IResidualStep.Step(Tensor x, MixerContext context, Tensor? residual)
    {
        if (context.State is null || is_grad_enabled() || x.Dimensions != 3 || x.size(1) != 1)
        {
            return null;
        }

        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<Mamba2State>(context.State, batch.Size)!;
        var layer = new DualityStepLayer(
            convolution.Weight, convolution.Bias, stepBias, decayLog, skip, norm, options.NGroups,
            options.DtLimitMin ?? 0, options.DtLimitMax ?? double.PositiveInfinity);
        if (!DualityStep.CanRun(x, layer, state.Convolution, state.Recurrent))
        {
            return null;
        }

        using var lease = StepBuffers.For(context);
        var projected = options is { InputMultiplier: 1, ProjectionMultipliers: null }
            ? LinearStep.Apply(inProjection, batch.Input, lease.Buffers)
            : lease.Buffers.Adopt(Project(batch.Input));
        var y = DualityStep.Apply(projected, layer, state.Convolution, state.Recurrent, lease.Buffers);
        state.Advance(batch.Length, batch.Lengths);
        return lease.Result(LinearStep.Apply(outProjection, y, lease.Buffers, residual));
    }

    /// <summary>A = -exp(A_log), [H], in the precision of the state.</summary>
    private Tensor Decay() => decayLog.to_type(StatePrecision.Of(decayLog.dtype)).exp().neg();
}
