using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Routing;

/// <summary>State of a <see cref="StateBridge"/>: the summary.</summary>
public sealed class StateBridgeState : MixerState
{
    internal StateBridgeState(Tensor summary)
        : base(summary.size(0), ("summary", summary))
    {
    }

    /// <summary>The summary s after the last token: [B, D], float32 (float64 with float64 weights).</summary>
    public Tensor Summary => this[0];

    internal void Update(Tensor summary) => Set(0, summary);
}

/// <summary>
/// Hands the state of one kind of layer to the next kind: <c>beta W s_t</c>, added to the input of the layer behind the change. The
/// summary s is a decaying average of what the layer before wrote into the residual stream, u = its output - its input, one decay
/// a = sigmoid(d) a channel: <c>s_t = a s_(t-1) + (1 - a) u_t</c>, with s = 0 before the first token.
/// </summary>
/// <remarks>
/// A recurrent layer's state and an attention layer's cache have no common form, but what both read out of them has: u_t. Its average
/// is a state of D numbers of either kind that depends on nothing after t, is computed for all t at once in training and token by token
/// in decoding. beta starts at 0.1, the time scales 1 / (1 - a) log-uniform over 2 to 256 tokens.
/// </remarks>
public sealed class StateBridge : SequenceMixer
{
    private const double InitialStrength = 0.1;
    private const double ShortestTimescale = 2;
    private const double LongestTimescale = 256;

    [ComponentName(Name = "beta")]
    private readonly Parameter strength;

    [ComponentName(Name = "decay")]
    private readonly Parameter decay;

    [ComponentName(Name = "proj")]
    private readonly Linear projection;

    /// <param name="width">Model width D.</param>
    public StateBridge(long width)
        : base(nameof(StateBridge), width)
    {
        projection = Linear(width, width, hasBias: false);
        using var scope = NewDisposeScope();
        strength = ModuleParameter.Own(full([1], InitialStrength, dtype: ScalarType.Float32));

        // 1 / (1 - sigmoid(d)) = timescale for d = log(timescale - 1).
        var (low, high) = (Math.Log(ShortestTimescale), Math.Log(LongestTimescale));
        decay = ModuleParameter.Own(((rand(width) * (high - low)) + low).expm1().log());
        RegisterComponents();
    }

    /// <summary>The strength and the decays.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay => [strength, decay];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [projection.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        return new StateBridgeState(zeros([batchSize, Width], dtype: StatePrecision.Of(decay.dtype), device: decay.device));
    }

    /// <summary>What the next layer's input receives.</summary>
    /// <param name="x">What the layer before wrote into the residual stream [B, T, D].</param>
    /// <param name="context">State, padding, packed rows.</param>
    /// <returns>beta W s [B, T, D].</returns>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, projection.weight.dtype);
        var state = RequireState<StateBridgeState>(context.State, batch.Size);

        var logits = decay.to_type(StatePrecision.Of(decay.dtype)).expand(batch.Size, batch.Length, Width);
        var entering = logits.neg().sigmoid() * batch.Input;                             // (1 - a) u, exact where a is close to 1
        var (summary, last) = LinearRecurrence.Apply(
            entering, logits.log_sigmoid(), state?.Summary, batch.Mask, PackedRows.Restarts(context.SequenceIds), stateGradient: false);
        var y = (projection.call(summary.to_type(x.dtype)) * strength).to_type(x.dtype);

        state?.Update(last);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(y).MoveToOuterDisposeScope();
    }
}
