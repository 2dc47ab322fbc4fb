using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="GatedSsmMixer"/>.</summary>
public sealed record GatedSsmOptions
{
    // A time scale of 1 remembers nothing: its decay is 0, which no finite logit gives.
    private const double ShortestTimescale = 1.01;

    /// <summary>Inner width E as a multiple of the model width; at least 1. Default 2.</summary>
    public long ExpandFactor { get; init; } = 2;

    /// <summary>Lets the input set the decay of every step. Default true; false leaves one learned decay a channel.</summary>
    public bool InputDependentDecay { get; init; } = true;

    /// <summary>Shortest initial time scale, in tokens; at least 1.01. Default 2.</summary>
    public double TimescaleMin { get; init; } = 2;

    /// <summary>Longest initial time scale, in tokens. Default 256.</summary>
    public double TimescaleMax { get; init; } = 256;

    /// <summary>Adds biases to the input and output projections. Default false.</summary>
    public bool UseBias { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(GatedSsmOptions), nameof(ExpandFactor), ExpandFactor, 1);
        OptionRange.AtLeast(nameof(GatedSsmOptions), nameof(TimescaleMin), TimescaleMin, ShortestTimescale);
        OptionRange.Positive(nameof(GatedSsmOptions), nameof(TimescaleMax), TimescaleMax);
        OptionRange.AtLeast(nameof(GatedSsmOptions), nameof(TimescaleMax), TimescaleMax, TimescaleMin);
    }
}

/// <summary>State of a <see cref="GatedSsmMixer"/>: the running averages.</summary>
public sealed class GatedSsmState : MixerState
{
    internal GatedSsmState(Tensor average)
        : base(average.size(0), ("average", average))
    {
    }

    /// <summary>The averages h: [B, E], float32 (float64 with float64 weights).</summary>
    public Tensor Average => this[0];

    internal void Update(Tensor average) => Set(0, average);
}

/// <summary>
/// A gated state space with a scalar state a channel: a causal exponential moving average behind a gate.
/// <c>[v; g] = W_in x</c>; <c>a_t = sigmoid(d + W_d x_t)</c> (or <c>sigmoid(d)</c>, constant over time);
/// <c>h_t = a_t h_(t-1) + (1 - a_t) v_t</c>; <c>y_t = W_out( h_t * sigmoid(g_t) )</c>, with h = 0 before the first token.
/// Every h_t is a weighted mean of 0 and the values so far, so it never leaves their range. A channel remembers about
/// 1 / (1 - a) tokens; these time scales start log-uniform between two bounds.
/// </summary>
public sealed class GatedSsmMixer : SequenceMixer
{
    private readonly long inner;

    [ComponentName(Name = "in_proj")]
    private readonly Linear inProjection;

    [ComponentName(Name = "decay")]
    private readonly Parameter decay;

    [ComponentName(Name = "decay_proj")]
    private readonly Linear? decayProjection;

    [ComponentName(Name = "out_proj")]
    private readonly Linear outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes and variants; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public GatedSsmMixer(long width, GatedSsmOptions? options = null)
        : base(nameof(GatedSsmMixer), width)
    {
        options ??= new GatedSsmOptions();
        options.Validate();
        inner = options.ExpandFactor * width;

        inProjection = Linear(width, 2 * inner, hasBias: options.UseBias);
        decayProjection = options.InputDependentDecay ? Linear(width, inner, hasBias: false) : null;
        outProjection = Linear(inner, width, hasBias: options.UseBias);

        // 1 / (1 - sigmoid(d)) = timescale for d = log(timescale - 1).
        using var scope = NewDisposeScope();
        var (low, high) = (Math.Log(options.TimescaleMin), Math.Log(options.TimescaleMax));
        decay = ModuleParameter.Own(((rand(inner) * (high - low)) + low).expm1().log());
        RegisterComponents();
    }

    /// <summary>Inner width E.</summary>
    public long InnerWidth => inner;

    /// <summary>The decay of each channel.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => [decay];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        return new GatedSsmState(zeros([batchSize, inner], dtype: StatePrecision.Of(decay.dtype), device: decay.device));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var state = RequireState<GatedSsmState>(context.State, batch.Size);

        var projected = LinearStep.Apply(inProjection, batch.Input);                     // [B, T, 2E]: v, g
        var logits = decayProjection is null ? null : LinearStep.Apply(decayProjection, batch.Input);
        if (batch.Length == 1 && state is not null && GatedAverage.Step(projected, decay, logits, state.Average) is { } step)
        {
            state.Advance(batch.Length, batch.Lengths);
            return LinearStep.Apply(outProjection, step).MoveToOuterDisposeScope();
        }

        var (average, last) = GatedAverage.Apply(
            projected, decay, logits, state?.Average, batch.Mask, PackedRows.Restarts(context.SequenceIds), stateGradient: false);
        var y = LinearStep.Apply(outProjection, average);

        state?.Update(last);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(y).MoveToOuterDisposeScope();
    }
}
