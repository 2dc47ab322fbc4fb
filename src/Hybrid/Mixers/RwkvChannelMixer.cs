using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="RwkvChannelMixer"/>.</summary>
public sealed record RwkvChannelOptions
{
    /// <summary>Inner width, at least 1; null means 4 D.</summary>
    public long? IntermediateSize { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate() => OptionRange.AtLeast(nameof(RwkvChannelOptions), nameof(IntermediateSize), IntermediateSize ?? 1, 1);
}

/// <summary>State of a <see cref="RwkvChannelMixer"/>: the last token, float32 (float64 with float64 weights).</summary>
public sealed class RwkvChannelState : MixerState
{
    internal RwkvChannelState(Tensor lastToken)
        : base(lastToken.size(0), ("shift", lastToken))
    {
    }

    /// <summary>The last token, which the next one is mixed with: [B, D].</summary>
    public Tensor LastToken => this[0];

    internal void Update(Tensor lastToken) => Set(0, lastToken.to_type(LastToken.dtype));
}

/// <summary>
/// The channel mix of RWKV (Peng et al., arXiv 2305.13048): a gated feed-forward layer that sees the token before as well,
/// <c>y = sigma(W_r s_r) * W_v relu(W_k s_k)^2</c>. It carries a state, so it is a mixer with a layer of its own: layers
/// <c>["rwkv", "rwkv_channel_mix"]</c> in turn, without a feed-forward layer, are the blocks of RWKV-4. Parameter names are those of
/// RWKV-4 checkpoints.
/// </summary>
public sealed class RwkvChannelMixer : SequenceMixer
{
    [ComponentName(Name = "time_mix_key")]
    private readonly Parameter keyShare;

    [ComponentName(Name = "time_mix_receptance")]
    private readonly Parameter receptanceShare;

    [ComponentName(Name = "key")]
    private readonly Linear key;

    [ComponentName(Name = "receptance")]
    private readonly Linear receptance;

    [ComponentName(Name = "value")]
    private readonly Linear value;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Inner width; null means the default.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public RwkvChannelMixer(long width, RwkvChannelOptions? options = null)
        : base(nameof(RwkvChannelMixer), width)
    {
        options ??= new RwkvChannelOptions();
        options.Validate();
        var inner = options.IntermediateSize ?? 4 * width;
        key = ModuleParameter.Linear(width, inner, hasBias: false);
        receptance = ModuleParameter.Linear(width, width, hasBias: false);
        value = ModuleParameter.Linear(inner, width, hasBias: false);
        keyShare = TokenShift.Ramp(width, 0.5);
        receptanceShare = TokenShift.Ramp(width, 0.5);
        RegisterComponents();
    }

    /// <summary>The shares of the token shift.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => [keyShare, receptanceShare];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [value.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var weight = key.weight;
        var type = weight.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        return new RwkvChannelState(zeros([batchSize, Width], dtype: type, device: weight.device));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, key.weight.dtype);
        var state = RequireState<RwkvChannelState>(context.State, batch.Size);

        var shift = new TokenShift(batch.Input, state?.LastToken, PackedRows.Restarts(context.SequenceIds));
        var gate = LinearStep.Apply(receptance, shift.Mix(receptanceShare)).sigmoid();   // [B, T, D]
        var hidden = LinearStep.Apply(key, shift.Mix(keyShare)).relu().square();         // [B, T, I]

        state?.Update(shift.Last(batch.Lengths));
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(gate * LinearStep.Apply(value, hidden)).MoveToOuterDisposeScope();
    }
}
