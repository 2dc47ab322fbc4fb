using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="GriffinMixer"/>. Defaults are those of the paper.</summary>
public sealed record GriffinOptions
{
    private const long BlocksOfThePaper = 16;

    /// <summary>Width E of the recurrence; null means the model width D.</summary>
    public long? LruWidth { get; init; }

    /// <summary>Blocks H of the gate matrices; divides E. Null means the greatest common divisor of 16 and E.</summary>
    public long? NumHeads { get; init; }

    /// <summary>Taps W of the short convolution; at least 1. Default 4.</summary>
    public long DConv { get; init; } = 4;

    /// <summary>
    /// True for the recurrence alone: no projections, convolution or gate branch, and E = D. Default false: the whole block.
    /// </summary>
    public bool BareRecurrence { get; init; }

    /// <summary>The width of the recurrence for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="LruWidth"/> or D.</returns>
    public long ResolveLruWidth(long width) => LruWidth ?? width;

    /// <summary>The number of gate blocks for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="NumHeads"/> or its default.</returns>
    public long ResolveNumHeads(long width) => NumHeads ?? GreatestCommonDivisor(BlocksOfThePaper, ResolveLruWidth(width));

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(GriffinOptions), nameof(LruWidth), LruWidth ?? 1, 1);
        OptionRange.AtLeast(nameof(GriffinOptions), nameof(NumHeads), NumHeads ?? 1, 1);
        OptionRange.AtLeast(nameof(GriffinOptions), nameof(DConv), DConv, 1);
    }

    /// <summary>Throws where the options do not fit a model width.</summary>
    internal void ValidateFor(long width)
    {
        Validate();
        var (inner, heads) = (ResolveLruWidth(width), ResolveNumHeads(width));
        if (inner % heads != 0)
        {
            throw new ArgumentOutOfRangeException(
                nameof(NumHeads), heads, $"{nameof(GriffinOptions)}.{nameof(NumHeads)} must divide the width of the recurrence, {inner}; got {heads}.");
        }

        if (BareRecurrence && inner != width)
        {
            throw new ArgumentOutOfRangeException(
                nameof(LruWidth), inner,
                $"{nameof(GriffinOptions)}.{nameof(LruWidth)} of a bare recurrence must be the model width, {width}; got {inner}.");
        }
    }

    private static long GreatestCommonDivisor(long a, long b) => b == 0 ? a : GreatestCommonDivisor(b, a % b);
}

/// <summary>State of a <see cref="GriffinMixer"/>: the recurrent state, and the convolution's window where there is one.</summary>
public sealed class GriffinState : MixerState
{
    private readonly bool hasConvolution;

    internal GriffinState(Tensor recurrent, Tensor? convolution)
        : base(recurrent.size(0), convolution is null ? [("rg_lru", recurrent)] : [("rg_lru", recurrent), ("conv", convolution)]) =>
        hasConvolution = convolution is not null;

    /// <summary>The state h: [B, E], float32 (float64 with float64 weights).</summary>
    public Tensor Recurrent => this[0];

    /// <summary>The last W - 1 inputs of the convolution, oldest first: [B, W - 1, E] in the dtype of the weights; null without one.</summary>
    public Tensor? Convolution => hasConvolution ? this[1] : null;

    internal void Update(Tensor recurrent, Tensor? convolution)
    {
        Set(0, recurrent);
        if (convolution is not null)
        {
            Set(1, convolution);
        }
    }
}

/// <summary>
/// The recurrent block of Griffin (De et al., arXiv 2402.19427): <c>linear_out( rg_lru(conv(linear_x u)) * gelu(linear_y u) )</c>, the
/// convolution with a bias and without an activation, the GELU in its tanh form, and the recurrence of
/// <see cref="Kernels.RgLru"/>. Parameter names are those of RecurrentGemma checkpoints.
/// </summary>
public sealed class GriffinMixer : SequenceMixer
{
    private readonly GriffinOptions options;
    private readonly long inner;

    [ComponentName(Name = "linear_y")]
    private readonly Linear? gateProjection;

    [ComponentName(Name = "linear_x")]
    private readonly Linear? inputProjection;

    [ComponentName(Name = "conv_1d")]
    private readonly ShortConvolution? convolution;

    [ComponentName(Name = "rg_lru")]
    private readonly RgLruLayer recurrence;

    [ComponentName(Name = "linear_out")]
    private readonly Linear? outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes and variants; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public GriffinMixer(long width, GriffinOptions? options = null)
        : base(nameof(GriffinMixer), width)
    {
        this.options = options ??= new GriffinOptions();
        options.ValidateFor(width);
        inner = options.ResolveLruWidth(width);

        recurrence = new RgLruLayer(inner, options.ResolveNumHeads(width));
        if (!options.BareRecurrence)
        {
            gateProjection = ModuleParameter.Linear(width, inner);
            inputProjection = ModuleParameter.Linear(width, inner);
            convolution = new ShortConvolution(inner, options.DConv, activation: Activation.Identity);
            outProjection = ModuleParameter.Linear(inner, width);
        }

        RegisterComponents();
    }

    /// <summary>Width E of the recurrence.</summary>
    public long InnerWidth => inner;

    /// <summary>The decay rates and the gate biases of the recurrence.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => recurrence.ParametersWithoutWeightDecay;

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => outProjection is null ? [] : [outProjection.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var (dtype, device) = (recurrence.Type, recurrence.Device);
        return new GriffinState(
            zeros([batchSize, inner], dtype: StatePrecision.Of(dtype), device: device),
            convolution is null ? null : zeros([batchSize, options.DConv - 1, inner], dtype: dtype, device: device));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, recurrence.Type);
        var state = RequireState<GriffinState>(context.State, batch.Size);

        var input = inputProjection is null ? batch.Input : LinearStep.Apply(inputProjection, batch.Input);   // [B, T, E]
        var gate = gateProjection is null ? null : LinearStep.Apply(gateProjection, batch.Input);             // [B, T, E]
        if (gate is not null && Step(input, gate, batch, state) is { } step)
        {
            return LinearStep.Apply(outProjection!, step).MoveToOuterDisposeScope();
        }

        var (u, window) = Driven(input, batch, state?.Convolution, context.SequenceIds);
        var first = FirstTokens(batch, state, context.SequenceIds);
        var (y, recurrent) = recurrence.Run(u, state?.Recurrent, first, batch.Mask);
        if (gate is not null)
        {
            y = LinearStep.Apply(outProjection!, y * gate.gelu(TorchSharp.Modules.GELU.Approximate.tanh));
        }

        state?.Update(recurrent, window);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(y).MoveToOuterDisposeScope();
    }

    /// <summary>One token with all between the projections in one kernel, in place on the state; null where that kernel cannot run.</summary>
    private Tensor? Step(Tensor input, Tensor gate, MixerBatch batch, GriffinState? state)
    {
        if (batch.Length != 1 || convolution is null || state?.Convolution is not { } window)
        {
            return null;
        }

        var y = GriffinStep.Apply(input, gate, recurrence.StepWeights(convolution), window, state.Recurrent, state.Positions);
        if (y is not null)
        {
            state.Advance(batch.Length, batch.Lengths);
        }

        return y;
    }

    /// <summary>What drives the recurrence, and the window that continues the convolution.</summary>
    private (Tensor Input, Tensor? Window) Driven(Tensor input, MixerBatch batch, Tensor? window, Tensor? sequenceIds) =>
        convolution is null ? (input, null) : convolution.forward(input, window, batch.Lengths, sequenceIds);

    /// <summary>Bool [B, T]: true at the first token of every sequence, packed or not; null where all rows continue a state.</summary>
    private static Tensor? FirstTokens(MixerBatch batch, GriffinState? state, Tensor? sequenceIds)
    {
        var fresh = Enumerable.Range(0, (int)batch.Size).Select(row => state is null || state.Positions[row] == 0).ToArray();
        if (!fresh.Contains(true))
        {
            return null;
        }

        var device = batch.Input.device;
        var later = PackedRows.Restarts(sequenceIds)?.narrow(1, 1, batch.Length - 1)
            ?? zeros([batch.Size, batch.Length - 1], dtype: ScalarType.Bool, device: device);
        return cat([tensor(fresh).to(device).unsqueeze(1), later], 1);
    }
}
