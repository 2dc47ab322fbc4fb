using Hybrid.Attention;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="FalconH1Mixer"/>.</summary>
public sealed record FalconH1Options
{
    /// <summary>The state-space branch.</summary>
    public Mamba2Options MambaConfig { get; init; } = new();

    /// <summary>The attention branch.</summary>
    public AttentionOptions AttentionConfig { get; init; } = new();

    /// <summary>Factor of what the state-space branch adds; positive. Default 1.</summary>
    public double MambaOutputMultiplier { get; init; } = 1;

    /// <summary>Factor of what goes into attention; positive. Default 1.</summary>
    public double AttentionInputMultiplier { get; init; } = 1;

    /// <summary>Factor of what attention adds; positive. Default 1.</summary>
    public double AttentionOutputMultiplier { get; init; } = 1;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.Positive(nameof(FalconH1Options), nameof(MambaOutputMultiplier), MambaOutputMultiplier);
        OptionRange.Positive(nameof(FalconH1Options), nameof(AttentionInputMultiplier), AttentionInputMultiplier);
        OptionRange.Positive(nameof(FalconH1Options), nameof(AttentionOutputMultiplier), AttentionOutputMultiplier);
    }
}

/// <summary>
/// Mamba-2 and attention side by side, added with fixed factors: <c>m_o mamba(x) + a_o attention(a_i x)</c> (Falcon-H1, Zuo et al.,
/// arXiv 2507.22448, section 2). The state is a <see cref="CompositeState"/> of both branches.
/// </summary>
public sealed class FalconH1Mixer : SequenceMixer
{
    private readonly FalconH1Options options;

    [ComponentName(Name = "mamba")]
    private readonly Mamba2Mixer mamba;

    [ComponentName(Name = "attention")]
    private readonly MultiHeadAttention attention;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Branches and factors; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public FalconH1Mixer(long width, FalconH1Options? options = null)
        : base(nameof(FalconH1Mixer), width)
    {
        this.options = options ??= new FalconH1Options();
        options.Validate();
        mamba = new Mamba2Mixer(width, options.MambaConfig);
        attention = new MultiHeadAttention(width, options.AttentionConfig);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => mamba.ResidualOutputWeights.Concat(attention.ResidualOutputWeights);

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        return new CompositeState(batchSize, [mamba.CreateState(batchSize), attention.CreateState(batchSize)]);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, mamba.Type);
        var state = CompositeState.Require(RequireState<CompositeState>(context.State, batch.Size), this, 2);
        state?.EnsureRoom(batch.Length, batch.Lengths);

        var inner = batch.Inner(context);
        var recurrent = mamba.forward(batch.Input, inner.WithState(state?.Parts[0]));
        var attended = attention.forward(batch.Input * options.AttentionInputMultiplier, inner.WithState(state?.Parts[1]));
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End((recurrent * options.MambaOutputMultiplier) + (attended * options.AttentionOutputMultiplier)).MoveToOuterDisposeScope();
    }
}
