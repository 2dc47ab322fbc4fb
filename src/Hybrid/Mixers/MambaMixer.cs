using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="MambaMixer"/>. Defaults are those of the paper.</summary>
public sealed record MambaOptions
{
    /// <summary>State size N of each channel; at least 1. Default 16.</summary>
    public long DState { get; init; } = 16;

    /// <summary>Taps W of the short convolution; at least 1. Default 4.</summary>
    public long DConv { get; init; } = 4;

    /// <summary>Inner width E as a multiple of the model width; at least 1. Default 2.</summary>
    public long ExpandFactor { get; init; } = 2;

    /// <summary>Inner width E itself, at least 1, in the place of <see cref="ExpandFactor"/>; null, the default, means E = D times that.</summary>
    public long? InnerSize { get; init; }

    /// <summary>Rank R of the step-size projection; null means ceil(D / 16).</summary>
    public long? DtRank { get; init; }

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

    /// <summary>Activation after the convolution. Default SiLU.</summary>
    public Activation Activation { get; init; } = Activation.Silu;

    /// <summary>Adds a bias to the convolution. Default true.</summary>
    public bool UseConvBias { get; init; } = true;

    /// <summary>Adds biases to the input and output projections. Default false.</summary>
    public bool UseBias { get; init; }

    /// <summary>RMS norms on dt, B and C, as in Jamba. Default false.</summary>
    public bool UseInnerNorms { get; init; }

    /// <summary>Weights in those norms (true, the default), or none, as in Falcon Mamba.</summary>
    public bool UseInnerNormWeights { get; init; } = true;

    /// <summary>
    /// How the recurrence runs; all give the same numbers. Default: the fused kernel where it can run, else the associative form.
    /// </summary>
    public ScanType ScanType { get; init; } = ScanType.Auto;

    /// <summary>
    /// False keeps to plain tensor operations in the whole layer, at any length, which excludes <see cref="ScanType.Fused"/>. Default true.
    /// </summary>
    public bool UseFusedKernels { get; init; } = true;

    /// <summary>Epsilon of the inner norms. Default 1e-6.</summary>
    public double InnerNormEps { get; init; } = 1e-6;

    /// <summary>The inner width for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="InnerSize"/> or D times <see cref="ExpandFactor"/>.</returns>
    public long ResolveInnerSize(long width) => InnerSize ?? ExpandFactor * width;

    /// <summary>The step-size rank for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="DtRank"/> or ceil(D / 16).</returns>
    public long ResolveDtRank(long width) => DtRank ?? (width + 15) / 16;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(MambaOptions), nameof(DState), DState, 1);
        OptionRange.AtLeast(nameof(MambaOptions), nameof(DConv), DConv, 1);
        OptionRange.AtLeast(nameof(MambaOptions), nameof(ExpandFactor), ExpandFactor, 1);
        OptionRange.AtLeast(nameof(MambaOptions), nameof(InnerSize), InnerSize ?? 1, 1);
        OptionRange.AtLeast(nameof(MambaOptions), nameof(DtRank), DtRank ?? 1, 1);
        OptionRange.Positive(nameof(MambaOptions), nameof(DtMin), DtMin);
        OptionRange.Positive(nameof(MambaOptions), nameof(DtMax), DtMax);
        OptionRange.AtLeast(nameof(MambaOptions), nameof(DtMax), DtMax, DtMin);
        OptionRange.Positive(nameof(MambaOptions), nameof(DtInitFloor), DtInitFloor);
        OptionRange.AtLeast(nameof(MambaOptions), nameof(DtLimitMin), DtLimitMin ?? 0, 0);
        OptionRange.AtLeast(nameof(MambaOptions), nameof(DtLimitMax), DtLimitMax ?? double.PositiveInfinity, DtLimitMin ?? 0);
        OptionRange.Positive(nameof(MambaOptions), nameof(InnerNormEps), InnerNormEps);
        if (ScanType == ScanType.Fused && !UseFusedKernels)
        {
            throw new ArgumentException(
                "MambaOptions.UseFusedKernels must be true with the scan type Fused; got false.", nameof(UseFusedKernels));
        }
    }
}

/// <summary>State of a <see cref="MambaMixer"/>: the convolution's window and the recurrent state.</summary>
public sealed class MambaState : MixerState
{
    internal MambaState(Tensor convolution, Tensor recurrent)
        : base(recurrent.size(0), ("conv", convolution), ("ssm", recurrent))
    {
    }

    /// <summary>The last W - 1 inputs of the convolution, oldest first: [B, W - 1, E] in the dtype of the weights.</summary>
    public Tensor Convolution => this[0];

    /// <summary>The state h: [B, E, N], float32 (float64 with float64 weights).</summary>
    public Tensor Recurrent => this[1];

    internal void Update(Tensor convolution, Tensor recurrent)
    {
        Set(0, convolution);
        Set(1, recurrent);
    }
}

/// <summary>
/// The Mamba mixer, S6 (Gu and Dao, arXiv 2312.00752): a selective state space behind a short convolution.
/// <c>[x; z] = W_in u</c>; <c>x = act(conv(x))</c>; <c>[dt; B; C] = W_x x</c>; <c>delta = softplus(W_dt dt + b_dt)</c>;
/// <c>A = -exp(A_log)</c>; selective scan with skip D and gate z; <c>W_out</c>. Parameter names are those of mamba_ssm checkpoints.
/// </summary>
public sealed class MambaMixer : SequenceMixer, IResidualStep
{
    private readonly MambaOptions options;
    private readonly ScanType scanType;
    private readonly long inner;
    private readonly long rank;
    private readonly MambaStepForm stepForm;

    [ComponentName(Name = "in_proj")]
    private readonly Linear inProjection;

    [ComponentName(Name = "conv1d")]
    private readonly ShortConvolution convolution;

    [ComponentName(Name = "x_proj")]
    private readonly Linear xProjection;

    [ComponentName(Name = "dt_proj")]
    private readonly Linear dtProjection;

    [ComponentName(Name = "A_log")]
    private readonly Parameter decayLog;

    [ComponentName(Name = "D")]
    private readonly Parameter skip;

    [ComponentName(Name = "out_proj")]
    private readonly Linear outProjection;

    [ComponentName(Name = "dt_layernorm")]
    private readonly RmsNorm? dtNorm;

    [ComponentName(Name = "b_layernorm")]
    private readonly RmsNorm? inputNorm;

    [ComponentName(Name = "c_layernorm")]
    private readonly RmsNorm? outputNorm;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes and variants; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public MambaMixer(long width, MambaOptions? options = null)
        : base(nameof(MambaMixer), width)
    {
        this.options = options ??= new MambaOptions();
        options.Validate();
        inner = options.ResolveInnerSize(width);
        rank = options.ResolveDtRank(width);
        stepForm = new MambaStepForm(
            options.Activation == Activation.Silu, options.DtLimitMin ?? 0, options.DtLimitMax ?? double.PositiveInfinity,
            options.UseInnerNorms ? options.InnerNormEps : null);
        scanType = options is { ScanType: ScanType.Auto, UseFusedKernels: false } ? ScanType.Associative : options.ScanType;

        inProjection = ModuleParameter.Linear(width, 2 * inner, hasBias: options.UseBias);
        convolution = new ShortConvolution(inner, options.DConv, options.UseConvBias, options.Activation) { UseFusedKernels = options.UseFusedKernels };
        xProjection = ModuleParameter.Linear(inner, rank + (2 * options.DState), hasBias: false);
        dtProjection = ModuleParameter.Linear(rank, inner, hasBias: true);
        outProjection = ModuleParameter.Linear(inner, width, hasBias: options.UseBias);
        if (options.UseInnerNorms)
        {
            dtNorm = InnerNorm(rank);
            inputNorm = InnerNorm(options.DState);
            outputNorm = InnerNorm(options.DState);
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        decayLog = ModuleParameter.Make(
            () => arange(1, options.DState + 1, dtype: ScalarType.Float32).log().unsqueeze(0).repeat(inner, 1), inner, options.DState);
        skip = ModuleParameter.Own(ones(inner));
        InitialiseStepSizes();
        RegisterComponents();
    }

    /// <summary>Inner width E.</summary>
    public long InnerWidth => inner;

    /// <summary>A_log, D and the step-size bias: decay would pull the dynamics towards fixed values.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => [decayLog, skip, dtProjection.bias!];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var weight = inProjection.weight;
        return new MambaState(
            zeros([batchSize, options.DConv - 1, inner], dtype: weight.dtype, device: weight.device),
            zeros([batchSize, inner, options.DState], dtype: StatePrecision.Of(weight.dtype), device: weight.device));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context) => ((IResidualStep)this).Step(x, context, null) ?? Mix(x, context);

    private Tensor Mix(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<MambaState>(context.State, batch.Size);

        var projected = LinearStep.Apply(inProjection, batch.Input, options.UseFusedKernels); // [B, T, 2E]
        var halves = projected.chunk(2, -1);                                             // [B, T, E] each: x, z
        var (convolved, window) = convolution.forward(halves[0], state?.Convolution, batch.Lengths, context.SequenceIds);

        var parts = xProjection.call(convolved).split([rank, options.DState, options.DState], -1);
        var dt = dtNorm?.call(parts[0]) ?? parts[0];                                     // [B, T, R]
        var inputMatrix = inputNorm?.call(parts[1]) ?? parts[1];                         // [B, T, N]
        var outputMatrix = outputNorm?.call(parts[2]) ?? parts[2];                       // [B, T, N]
        var delta = functional.linear(dt, dtProjection.weight);                          // [B, T, E], bias and softplus to come

        var (y, recurrent) = SelectiveScan.Apply(
            convolved, delta, Decay(), inputMatrix, outputMatrix, skip, halves[1], dtProjection.bias, deltaSoftplus: true,
            state?.Recurrent, batch.Mask, PackedRows.Restarts(context.SequenceIds), stateGradient: false, scanType, options.DtLimitMin, options.DtLimitMax);

        state?.Update(window, recurrent);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(LinearStep.Apply(outProjection, y, options.UseFusedKernels)).MoveToOuterDisposeScope();
    }

    /// <summary>Mixes a batch and says how.</summary>
    /// <param name="x">Input [B, T, D].</param>
    /// <param name="context">State, padding, packed rows; null means none.</param>
    /// <returns>Output [B, T, D] and the metrics of the call.</returns>
    public HybridOutput<ScanMetrics> Run(Tensor x, MixerContext? context = null)
    {
        context ??= MixerContext.None;
        var output = forward(x, context);
        var shape = x.shape;
        var algorithm = SelectiveScan.Resolve(scanType, ("u", x), ("A", decayLog));
        var kernel = algorithm == ScanType.Fused ? SelectiveScan.FusedKernel(x) : "SelectiveScan.Reference";
        return new HybridOutput<ScanMetrics>(
            output,
            new ScanMetrics(algorithm, ScanComplexity.Of(algorithm), kernel, shape[1], shape[0], options.DState, x.device_type));
    }

    /// <summary>Cost of mixing T tokens like these, without state and packed rows.</summary>
    internal ComputeComplexity Complexity(Tensor x) => ScanComplexity.Of(SelectiveScan.Resolve(scanType, ("u", x), ("A", decayLog)));

    /// <summary>
    /// One token with all between the projections in one kernel, in place on the state; null where that kernel cannot run. A token has no
    /// padding, so nothing is made that would need a dispose scope: one costs more than the tensors here.
    /// </summary>
    Tensor? IResidualStep.Step(Tensor x, MixerContext context, Tensor? residual)
    {
        if (context.State is null || is_grad_enabled() || x.Dimensions != 3 || x.size(1) != 1 || scanType is not (ScanType.Auto or ScanType.Fused)
            || options.Activation is not (Activation.Silu or Activation.Identity))
        {
            return null;
        }

        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<MambaState>(context.State, batch.Size)!;
        var weights = new MambaStepWeights(
            convolution.Weight, convolution.Bias, xProjection.weight, dtProjection.weight, dtProjection.bias!, decayLog, skip, dtNorm?.Weight,
            inputNorm?.Weight, outputNorm?.Weight);
        if (!MambaStep.CanRun(x, weights, state.Convolution, state.Recurrent))
        {
            return null;
        }

        using var lease = StepBuffers.For(context);
        var projected = LinearStep.Apply(inProjection, batch.Input, lease.Buffers);      // [B, 1, 2E]
        var y = MambaStep.Apply(projected, weights, state.Convolution, state.Recurrent, stepForm, lease.Buffers);
        state.Advance(batch.Length, batch.Lengths);
        return lease.Result(LinearStep.Apply(outProjection, y, lease.Buffers, residual));
    }

    private RmsNorm InnerNorm(long size) =>
        new(size, options.InnerNormEps, options.UseInnerNormWeights ? NormScale.Weight : NormScale.None) { UseFusedKernels = options.UseFusedKernels };

    /// <summary>A = -exp(A_log), [E, N], in the precision of the state.</summary>
    private Tensor Decay() => decayLog.to_type(StatePrecision.Of(decayLog.dtype)).exp().neg();

    /// <summary>Step sizes start log-uniform between DtMin and DtMax, so that channels cover short and long memory.</summary>
    private void InitialiseStepSizes()
    {
        var bound = Math.Pow(rank, -0.5);
        dtProjection.weight.uniform_(-bound, bound);
        dtProjection.bias!.copy_(StepSizeBias.LogUniform(inner, options.DtMin, options.DtMax, options.DtInitFloor));
    }
}
