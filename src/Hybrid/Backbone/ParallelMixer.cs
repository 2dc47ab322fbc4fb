using Hybrid.Attention;
using Hybrid.Mixers;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <summary>Options of <see cref="ParallelMixer"/>.</summary>
public sealed record ParallelMixerOptions
{
    /// <summary>One gate a channel (true, the default), or one for all channels of a token.</summary>
    public bool GatePerChannel { get; init; } = true;

    /// <summary>The state-space branch.</summary>
    public MambaOptions MambaConfig { get; init; } = new();

    /// <summary>The attention branch.</summary>
    public AttentionOptions AttentionConfig { get; init; } = new();
}

/// <summary>
/// A state-space layer and attention side by side: <c>y = g * ssm(x) + (1 - g) * attention(x)</c> with the gate <c>g = sigmoid(W x + b)</c>.
/// In a pre-norm block, whose input to the mixer is the norm of the residual stream, it is <c>x + g * ssm(norm x) + (1 - g) * attention(norm x)</c>.
/// The state is a <see cref="CompositeState"/> of both branches.
/// </summary>
public sealed class ParallelMixer : SequenceMixer
{
    [ComponentName(Name = "ssm")]
    private readonly SequenceMixer ssm;

    [ComponentName(Name = "attention")]
    private readonly SequenceMixer attention;

    [ComponentName(Name = "gate")]
    private readonly Linear gate;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Gate and branches; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public ParallelMixer(long width, ParallelMixerOptions? options = null)
        : this(
            new MambaMixer(width, (options ??= new ParallelMixerOptions()).MambaConfig),
            new MultiHeadAttention(width, options.AttentionConfig),
            options.GatePerChannel)
    {
    }

    /// <summary>Joins any two mixers of one width, such as Mamba-2 and attention.</summary>
    /// <param name="ssm">The branch that a gate of 1 takes; this mixer takes it over.</param>
    /// <param name="attention">The branch that a gate of 0 takes; this mixer takes it over.</param>
    /// <param name="gatePerChannel">One gate a channel, or one a token.</param>
    /// <exception cref="ArgumentException">The widths differ.</exception>
    public ParallelMixer(SequenceMixer ssm, SequenceMixer attention, bool gatePerChannel = true)
        : base(nameof(ParallelMixer), ssm.Width)
    {
        if (attention.Width != Width)
        {
            throw new ArgumentException($"ParallelMixer: the branches must have one width, {Width}; got {attention.Width}.", nameof(attention));
        }

        this.ssm = ssm;
        this.attention = attention;
        gate = Linear(Width, gatePerChannel ? Width : 1);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => ssm.ResidualOutputWeights.Concat(attention.ResidualOutputWeights);

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        return new CompositeState(batchSize, [ssm.CreateState(batchSize), attention.CreateState(batchSize)]);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, gate.weight.dtype);
        var state = CompositeState.Require(RequireState<CompositeState>(context.State, batch.Size), this, 2);
        state?.EnsureRoom(batch.Length, batch.Lengths);
        var aligned = batch.Inner(context);
        var recurrent = ssm.forward(batch.Input, aligned.WithState(state?.Parts[0]));
        var attended = attention.forward(batch.Input, aligned.WithState(state?.Parts[1]));
        state?.Advance(batch.Length, batch.Lengths);

        // g a + (1 - g) b = b + g (a - b), with one product less.
        var mixed = attended + (gate.call(batch.Input).sigmoid() * (recurrent - attended));
        return batch.End(mixed).MoveToOuterDisposeScope();
    }
}
