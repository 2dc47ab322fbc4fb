using Hybrid.Layers;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <summary>Options of <see cref="ResidualBlock"/>.</summary>
public sealed record BlockOptions
{
    /// <summary>Epsilon of the norms; positive. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>Dropout on each branch while training. Default 0.</summary>
    public double DropoutRate { get; init; }

    /// <summary>Normalises before a branch (true, the default) or after the residual sum.</summary>
    public bool PreNorm { get; init; } = true;

    /// <summary>The feed-forward layer after the mixer; null leaves it out.</summary>
    public FeedForwardOptions? FeedForward { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.Positive(nameof(BlockOptions), nameof(NormEps), NormEps);
        OptionRange.DropRate(nameof(BlockOptions), nameof(DropoutRate), DropoutRate);
    }
}

/// <summary>
/// A mixer with its norm and residual, and optionally a feed-forward layer with its own: <c>x + mixer(norm x)</c>, then
/// <c>x + ffn(norm x)</c>. Post-norm: <c>norm(x + mixer x)</c>. The state is the mixer's.
/// </summary>
public sealed class ResidualBlock : SequenceMixer
{
    private readonly bool preNorm;

    [ComponentName(Name = "norm")]
    private readonly RmsNorm mixerNorm;

    [ComponentName(Name = "mixer")]
    private readonly SequenceMixer mixer;

    [ComponentName(Name = "ffn_norm")]
    private readonly RmsNorm? feedForwardNorm;

    [ComponentName(Name = "ffn")]
    private readonly FeedForward? feedForward;

    [ComponentName(Name = "dropout")]
    private readonly Dropout? dropout;

    /// <param name="mixer">The mixer; the block takes it over.</param>
    /// <param name="options">Norm, dropout and feed-forward; null means the defaults.</param>
    public ResidualBlock(SequenceMixer mixer, BlockOptions? options = null)
        : base(nameof(ResidualBlock), mixer.Width)
    {
        options ??= new BlockOptions();
        options.Validate();
        this.mixer = mixer;
        preNorm = options.PreNorm;
        mixerNorm = new RmsNorm(Width, options.NormEps);
        if (options.FeedForward is { } feedForwardOptions)
        {
            feedForwardNorm = new RmsNorm(Width, options.NormEps);
            feedForward = new FeedForward(Width, feedForwardOptions);
        }

        dropout = options.DropoutRate > 0 ? Dropout(options.DropoutRate) : null;
        RegisterComponents();
    }

    /// <summary>The mixer inside.</summary>
    public SequenceMixer Mixer => mixer;

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights =>
        feedForward is null ? mixer.ResidualOutputWeights : mixer.ResidualOutputWeights.Append(feedForward.ResidualOutputWeight);

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize) => mixer.CreateState(batchSize);

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var mixed = Residual(x, mixerNorm, input => mixer.forward(input, context));
        var output = feedForward is null ? mixed : Residual(mixed, feedForwardNorm!, feedForward.call);
        return MixerBatch.ZeroPadding(output, context).MoveToOuterDisposeScope();
    }

    private Tensor Residual(Tensor x, RmsNorm norm, Func<Tensor, Tensor> branch)
    {
        var output = branch(preNorm ? norm.call(x) : x);
        var sum = x + (dropout?.call(output) ?? output);
        return preNorm ? sum : norm.call(sum);
    }
}
