using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="RwkvMixer"/>.</summary>
public sealed record RwkvOptions
{
    /// <summary>
    /// <see cref="WkvForm.DataDependent"/> (default): every token sets its own decay. <see cref="WkvForm.Rwkv4"/>: a trained decay for
    /// each channel, as RWKV-4 checkpoints have it.
    /// </summary>
    public WkvForm Form { get; init; } = WkvForm.DataDependent;

    /// <summary>Inner width E, at least 1; null means the model width.</summary>
    public long? AttentionHiddenSize { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate() => OptionRange.AtLeast(nameof(RwkvOptions), nameof(AttentionHiddenSize), AttentionHiddenSize ?? 1, 1);
}

/// <summary>State of a <see cref="RwkvMixer"/>: the last token and the running sums. All float32 (float64 with float64 weights).</summary>
public sealed class RwkvState : MixerState
{
    internal RwkvState(Tensor lastToken, WkvState sums)
        : base(lastToken.size(0), ("shift", lastToken), ("num", sums.Numerator), ("den", sums.Denominator), ("max", sums.Maximum))
    {
    }

    /// <summary>The last token, which the next one is mixed with: [B, D].</summary>
    public Tensor LastToken => this[0];

    /// <summary>The running sums: each [B, E].</summary>
    public WkvState Sums => new(this[1], this[2], this[3]);

    internal void Update(Tensor lastToken, WkvState sums)
    {
        Set(0, lastToken.to_type(LastToken.dtype));
        Set(1, sums.Numerator);
        Set(2, sums.Denominator);
        Set(3, sums.Maximum);
    }
}

/// <summary>
/// The time mix of RWKV (Peng et al., arXiv 2305.13048). Each token is mixed with the one before it, by other shares for each use:
/// <c>r = sigma(W_r s_r)</c>, <c>k = W_k s_k</c>, <c>v = W_v s_v</c>; <c>y = W_o (r * wkv(w, u, k, v))</c> with the running weighted mean
/// <see cref="Wkv"/>. The decay w is <c>W_w s_w + time_decay</c> in the data-dependent form, time_decay alone in that of RWKV-4, whose
/// parameter names are those of checkpoints. <see cref="RwkvChannelMixer"/> is the other half of an RWKV layer.
/// </summary>
public sealed class RwkvMixer : SequenceMixer
{
    private readonly RwkvOptions options;
    private readonly long inner;

    [ComponentName(Name = "time_mix_key")]
    private readonly Parameter keyShare;

    [ComponentName(Name = "time_mix_value")]
    private readonly Parameter valueShare;

    [ComponentName(Name = "time_mix_receptance")]
    private readonly Parameter receptanceShare;

    [ComponentName(Name = "time_mix_decay")]
    private readonly Parameter? decayShare;

    [ComponentName(Name = "time_decay")]
    private readonly Parameter timeDecay;

    [ComponentName(Name = "time_first")]
    private readonly Parameter timeFirst;

    [ComponentName(Name = "key")]
    private readonly Linear key;

    [ComponentName(Name = "value")]
    private readonly Linear value;

    [ComponentName(Name = "receptance")]
    private readonly Linear receptance;

    [ComponentName(Name = "decay")]
    private readonly Linear? decay;

    [ComponentName(Name = "output")]
    private readonly Linear output;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Form and sizes; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public RwkvMixer(long width, RwkvOptions? options = null)
        : base(nameof(RwkvMixer), width)
    {
        this.options = options ??= new RwkvOptions();
        options.Validate();
        inner = options.AttentionHiddenSize ?? width;
        var dataDependent = options.Form == WkvForm.DataDependent;

        key = ModuleParameter.Linear(width, inner, hasBias: false);
        value = ModuleParameter.Linear(width, inner, hasBias: false);
        receptance = ModuleParameter.Linear(width, inner, hasBias: false);
        decay = dataDependent ? ModuleParameter.Linear(width, inner, hasBias: false) : null;
        output = ModuleParameter.Linear(inner, width, hasBias: false);

        // The initial values of RWKV-4 for a layer in the middle of a stack.
        keyShare = TokenShift.Ramp(width, 0.5);
        valueShare = TokenShift.Ramp(width, 0.5, 0.15);
        receptanceShare = TokenShift.Ramp(width, 0.25);
        decayShare = dataDependent ? TokenShift.Ramp(width, 0.5) : null;
        timeDecay = InitialDecay(dataDependent);
        timeFirst = InitialBonus();
        RegisterComponents();
    }

    /// <summary>Inner width E.</summary>
    public long InnerWidth => inner;

    /// <summary>Shares, decay rates and the bonus.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => decayShare is null
        ? [keyShare, valueShare, receptanceShare, timeDecay, timeFirst]
        : [keyShare, valueShare, receptanceShare, decayShare, timeDecay, timeFirst];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [output.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var (type, device) = (StatePrecision.Of(key.weight.dtype), key.weight.device);
        return new RwkvState(
            zeros([batchSize, Width], dtype: type, device: device),
            new WkvState(
                zeros([batchSize, inner], dtype: type, device: device),
                zeros([batchSize, inner], dtype: type, device: device),
                full([batchSize, inner], Wkv.NoMaximum, dtype: type, device: device)));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, key.weight.dtype);
        var state = RequireState<RwkvState>(context.State, batch.Size);
        if (batch.Length == 1 && state is not null && RwkvStep.Apply(batch.Input, StepWeights(), state.LastToken, state.Sums) is { } step)
        {
            state.Advance(batch.Length, batch.Lengths);
            return LinearStep.Apply(output, step).MoveToOuterDisposeScope();
        }

        var restarts = PackedRows.Restarts(context.SequenceIds);
        var shift = new TokenShift(batch.Input, state?.LastToken, restarts);
        var r = LinearStep.Apply(receptance, shift.Mix(receptanceShare));                // [B, T, E]
        var k = LinearStep.Apply(key, shift.Mix(keyShare));                              // [B, T, E]
        var v = LinearStep.Apply(value, shift.Mix(valueShare));                          // [B, T, E]
        var (y, sums) = Wkv.Apply(options.Form, Decay(shift), timeFirst, k, v, state?.Sums, batch.Mask, restarts, r, stateGradient: false);

        state?.Update(shift.Last(batch.Lengths), sums);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(LinearStep.Apply(output, y)).MoveToOuterDisposeScope();
    }

    private RwkvStepWeights StepWeights() => decay is null || decayShare is null
        ? new(options.Form, [keyShare, valueShare, receptanceShare], [key.weight, value.weight, receptance.weight], timeDecay, timeFirst)
        : new(
            options.Form, [keyShare, valueShare, receptanceShare, decayShare], [key.weight, value.weight, receptance.weight, decay.weight], timeDecay, timeFirst);

    /// <summary>The raw decay w in the precision of the state: [B, T, E] where it depends on the data, else [E].</summary>
    private Tensor Decay(TokenShift shift)
    {
        var type = StatePrecision.Of(timeDecay.dtype);
        var constant = timeDecay.to_type(type);
        return decay is null || decayShare is null ? constant : LinearStep.Apply(decay, shift.Mix(decayShare)).to_type(type) + constant;
    }

    /// <summary>Rates from e^-5 to e^3 a step over the channels; the inverse of softplus where the kernel applies softplus.</summary>
    private Parameter InitialDecay(bool dataDependent)
    {
        using var scope = NewDisposeScope();
        var logRate = (arange(inner, dtype: ScalarType.Float32) / Math.Max(inner - 1, 1)).pow(1.35) * 8 - 5;
        var rate = logRate.exp();
        return ModuleParameter.Own(dataDependent ? rate + rate.neg().expm1().neg().log() : logRate);
    }

    /// <summary>ln 0.3 and half a unit to either side of it, in turn, so that channels differ in what the current token counts.</summary>
    private Parameter InitialBonus()
    {
        using var scope = NewDisposeScope();
        var turn = arange(1, inner + 1, dtype: ScalarType.Float32).remainder(3) - 1;
        return ModuleParameter.Own(turn * 0.5 + Math.Log(0.3));
    }
}
