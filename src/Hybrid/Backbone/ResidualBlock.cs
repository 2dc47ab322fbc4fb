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

    /// <summary>Experts in the place of the feed-forward layer, which they exclude; null leaves them out.</summary>
    public MixtureOfExpertsOptions? MixtureOfExperts { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.Positive(nameof(BlockOptions), nameof(NormEps), NormEps);
        OptionRange.DropRate(nameof(BlockOptions), nameof(DropoutRate), DropoutRate);
        if (FeedForward is not null && MixtureOfExperts is not null)
        {
            throw new ArgumentException("BlockOptions: a block has FeedForward or MixtureOfExperts, not both.");
        }
    }
}

/// <summary>
/// A mixer with its norm and residual, and optionally a feed-forward layer or experts with their own: <c>x + mixer(norm x)</c>, then
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
    private readonly Module<Tensor, Tensor>? feedForward;

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
        feedForward = (options.FeedForward, options.MixtureOfExperts) switch
        {
            ({ } dense, _) => new FeedForward(Width, dense),
            (_, { } experts) => new MixtureOfExperts(Width, experts),
            _ => null,
        };
        feedForwardNorm = feedForward is null ? null : new RmsNorm(Width, options.NormEps);
        dropout = options.DropoutRate > 0 ? Dropout(options.DropoutRate) : null;
        RegisterComponents();
    }

    /// <summary>The mixer inside.</summary>
    public SequenceMixer Mixer => mixer;

    /// <summary>The experts in the place of the feed-forward layer, or null.</summary>
    public MixtureOfExperts? Experts => feedForward as MixtureOfExperts;

    /// <summary>Number of branches that write into the residual stream: 2 with a feed-forward layer or experts, else 1.</summary>
    internal int Branches => feedForward is null ? 1 : 2;

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => feedForward switch
    {
        FeedForward dense => mixer.ResidualOutputWeights.Append(dense.ResidualOutputWeight),
        MixtureOfExperts experts => mixer.ResidualOutputWeights.Concat(experts.ResidualOutputWeights),
        _ => mixer.ResidualOutputWeights,
    };

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize) => mixer.CreateState(batchSize);

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context) => forward(x, context, null);

    /// <summary>Runs the block and collects the load-balance loss of its experts.</summary>
    /// <param name="x">[B, T, D].</param>
    /// <param name="context">State, padding, packed rows.</param>
    /// <param name="balanceLosses">Receives the loss if the block has experts, in the caller's dispose scope; null computes none.</param>
    /// <returns>[B, T, D].</returns>
    internal Tensor forward(Tensor x, MixerContext context, ICollection<Tensor>? balanceLosses)
    {
        using var scope = NewDisposeScope();
        var mixed = Residual(x, mixerNorm, input => mixer.forward(input, context));
        var output = feedForward is null ? mixed : Residual(mixed, feedForwardNorm!, input => RunFeedForward(input, balanceLosses));
        return MixerBatch.ZeroPadding(output, context).MoveToOuterDisposeScope();
    }

    private Tensor RunFeedForward(Tensor input, ICollection<Tensor>? balanceLosses)
    {
        if (balanceLosses is null || Experts is null)
        {
            return feedForward!.call(input);
        }

        var (output, loss) = Experts.ForwardWithBalanceLoss(input);
        balanceLosses.Add(loss.MoveToOuterDisposeScope());
        return output;
    }

    private Tensor Residual(Tensor x, RmsNorm norm, Func<Tensor, Tensor> branch)
    {
        var output = branch(preNorm ? norm.call(x) : x);
        var sum = x + (dropout?.call(output) ?? output);
        return preNorm ? sum : norm.call(sum);
    }
}
