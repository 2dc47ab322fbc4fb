using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Routing;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <summary>Options of <see cref="ResidualBlock"/>.</summary>
public sealed record BlockOptions
{
    /// <summary>The norm of each branch. Default RMS.</summary>
    public NormKind Norm { get; init; }

    /// <summary>Epsilon of the norms; positive. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>How often the stream before this block is halved in evaluation mode, see <see cref="BackboneBuilder.WithRescaling"/>.</summary>
    internal int Halvings { get; init; }

    /// <summary>Number of layers in the stack that have experts, over which their load-balance losses are averaged.</summary>
    internal int ExpertLayers { get; init; } = 1;

    /// <summary>Factor of each branch before it is added to the residual stream; positive. Default 1.</summary>
    public double ResidualMultiplier { get; init; } = 1;

    /// <summary>Dropout on each branch while training. Default 0.</summary>
    public double DropoutRate { get; init; }

    /// <summary>Normalises before a branch (true, the default) or after the residual sum.</summary>
    public bool PreNorm { get; init; } = true;

    /// <summary>The feed-forward layer after the mixer; null leaves it out.</summary>
    public FeedForwardOptions? FeedForward { get; init; }

    /// <summary>Experts in the place of the feed-forward layer, which they exclude; null leaves them out.</summary>
    public MixtureOfExpertsOptions? MixtureOfExperts { get; init; }

    /// <summary>
    /// Keeps only the input of the block between forward and backward, which computes the block again (Chen et al., arXiv 1604.06174): less
    /// memory for about a third more time, the same gradients. Default false. Only while autograd records; a block then takes no state,
    /// and no router or parallel hybrid can be in it, which might take another way the second time.
    /// </summary>
    public bool UseGradientCheckpointing { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.Positive(nameof(BlockOptions), nameof(NormEps), NormEps);
        OptionRange.Positive(nameof(BlockOptions), nameof(ResidualMultiplier), ResidualMultiplier);
        OptionRange.DropRate(nameof(BlockOptions), nameof(DropoutRate), DropoutRate);
        if (FeedForward is not null && MixtureOfExperts is not null)
        {
            throw new ArgumentException("BlockOptions: a block has FeedForward or MixtureOfExperts, not both.");
        }
    }
}

/// <summary>
/// A mixer with its norm and residual, and optionally a feed-forward layer or experts with their own: <c>x + mixer(norm x)</c>, then
/// <c>x + ffn(norm x)</c>. Post-norm: <c>norm(x + mixer x)</c>. The state is the mixer's. A block may also have no mixer, the second branch
/// alone: the MLP and expert layers of Nemotron-H.
/// </summary>
public sealed class ResidualBlock : SequenceMixer
{
    private readonly bool preNorm;
    private readonly double residualMultiplier;
    private readonly double balanceWeight;
    private readonly bool checkpointed;

    [ComponentName(Name = "norm")]
    private readonly Module<Tensor, Tensor>? mixerNorm;

    [ComponentName(Name = "mixer")]
    private readonly SequenceMixer? mixer;

    [ComponentName(Name = "ffn_norm")]
    private readonly Module<Tensor, Tensor>? feedForwardNorm;

    [ComponentName(Name = "ffn")]
    private readonly Module<Tensor, Tensor>? feedForward;

    [ComponentName(Name = "dropout")]
    private readonly Dropout? dropout;

    /// <param name="mixer">The mixer; the block takes it over.</param>
    /// <param name="options">Norm, dropout and feed-forward; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or gradient checkpointing meets a router.</exception>
    public ResidualBlock(SequenceMixer mixer, BlockOptions? options = null)
        : this(mixer.Width, mixer, options ?? new BlockOptions())
    {
    }

    /// <summary>Makes a block without a mixer: <c>x + ffn(norm x)</c>.</summary>
    /// <param name="width">Model width D; at least 1.</param>
    /// <param name="options">Norm and dropout, and the feed-forward layer or the experts.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or there is neither a feed-forward layer nor experts.</exception>
    public ResidualBlock(long width, BlockOptions options)
        : this(width, null, options)
    {
    }

    private ResidualBlock(long width, SequenceMixer? mixer, BlockOptions options)
        : base(nameof(ResidualBlock), width)
    {
        options.Validate();
        this.mixer = mixer;
        preNorm = options.PreNorm;
        residualMultiplier = options.ResidualMultiplier;
        balanceWeight = options.MixtureOfExperts is { RouterAuxLossCoefficient: var coefficient } ? coefficient / options.ExpertLayers : 0;
        checkpointed = options.UseGradientCheckpointing;
        mixerNorm = mixer is null or INormalisingMixer ? null : options.Norm.Create(Width, options.NormEps, options.Halvings);
        feedForward = (options.FeedForward, options.MixtureOfExperts) switch
        {
            ({ } dense, _) => new FeedForward(Width, dense),
            (_, { } experts) => new MixtureOfExperts(Width, experts),
            _ when mixer is null => throw new ArgumentException("ResidualBlock: a block without a mixer needs FeedForward or MixtureOfExperts."),
            _ => null,
        };
        feedForwardNorm = feedForward is null ? null : options.Norm.Create(Width, options.NormEps, options.Halvings);
        dropout = options.DropoutRate > 0 ? Dropout(options.DropoutRate) : null;
        RegisterComponents();
        if (checkpointed && modules().Any(module => module is HybridAttention or ParallelHybrid))
        {
            throw new ArgumentException(
                "ResidualBlock: gradient checkpointing runs a block twice, and a router or a parallel hybrid would count twice and might take another way the second time; leave one out.");
        }
    }

    /// <summary>The mixer inside; null where the block has none.</summary>
    public SequenceMixer? Mixer => mixer;

    /// <summary>The experts in the place of the feed-forward layer, or null.</summary>
    public MixtureOfExperts? Experts => feedForward as MixtureOfExperts;

    /// <summary>Number of branches that write into the residual stream: the mixer, and the feed-forward layer or the experts.</summary>
    internal int Branches => mixer is null || feedForward is null ? 1 : 2;

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights
    {
        get
        {
            var ofMixer = mixer?.ResidualOutputWeights ?? [];
            return feedForward switch
            {
                FeedForward dense => ofMixer.Append(dense.ResidualOutputWeight),
                MixtureOfExperts experts => ofMixer.Concat(experts.ResidualOutputWeights),
                _ => ofMixer,
            };
        }
    }

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        return mixer?.CreateState(batchSize) ?? new PositionState(batchSize);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context) =>
        checkpointed && is_grad_enabled() ? GradientCheckpoint.Run(this, Run, x, context) : Run(x, context);

    private Tensor Run(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        if (mixer is null)
        {
            return RunAlone(x, context).MoveToOuterDisposeScope();
        }

        var output = RunMixer(mixer, x, context);
        output = feedForward is null ? output : RunFeedForward(output, context);
        return MixerBatch.ZeroPadding(output, context).MoveToOuterDisposeScope();
    }

    /// <summary>The feed-forward branch without a mixer, which would have checked the input and counted the tokens.</summary>
    private Tensor RunAlone(Tensor x, MixerContext context)
    {
        var batch = MixerBatch.Begin(this, x, context, feedForward!.parameters().First().dtype);
        var state = RequireState<PositionState>(context.State, batch.Size);
        var output = RunFeedForward(batch.Input, context);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(output);
    }

    /// <summary>The stream after the mixer's branch.</summary>
    private Tensor RunMixer(SequenceMixer layer, Tensor x, MixerContext context)
    {
        var entering = Enter(x, mixerNorm, context.Buffers);
        return AddsInside(context.Buffers) && layer is IResidualStep step && step.Step(entering, context, x) is { } sum
            ? Normalise(sum, mixerNorm, context.Buffers)
            : Leave(x, layer.forward(entering, context), mixerNorm, context.Buffers);
    }

    /// <summary>The stream after the feed-forward layer, or after the experts, whose load-balance loss joins the auxiliary ones.</summary>
    private Tensor RunFeedForward(Tensor x, MixerContext context)
    {
        var buffers = context.Buffers;
        var entering = Enter(x, feedForwardNorm, buffers);
        if (buffers is not null && feedForward is FeedForward dense)
        {
            return AddsInside(buffers)
                ? Normalise(dense.Step(entering, buffers, x), feedForwardNorm, buffers)
                : Leave(x, dense.Step(entering, buffers, residual: null), feedForwardNorm, buffers);
        }

        if (Experts is null || balanceWeight == 0 || context.AuxiliaryLosses is not { } losses)
        {
            return Leave(x, feedForward!.call(entering), feedForwardNorm, buffers);
        }

        var (output, loss) = Experts.ForwardWithBalanceLoss(entering);
        losses.Add((loss * balanceWeight).DetachFromDisposeScope());
        return Leave(x, output, feedForwardNorm, buffers);
    }

    /// <summary>True in a step whose branches are added to the stream as they are, which their last product can do itself.</summary>
    private bool AddsInside(StepBuffers? buffers) => buffers is not null && residualMultiplier == 1 && (dropout is null || !dropout.training);

    /// <summary>What a branch gets of the residual stream.</summary>
    private Tensor Enter(Tensor x, Module<Tensor, Tensor>? norm, StepBuffers? buffers) => preNorm && norm is not null ? RmsNorm.Step(norm, x, buffers) : x;

    /// <summary>The residual stream after a branch.</summary>
    private Tensor Leave(Tensor x, Tensor output, Module<Tensor, Tensor>? norm, StepBuffers? buffers)
    {
        output = dropout?.call(output) ?? output;
        return Normalise(x + (residualMultiplier == 1 ? output : output * residualMultiplier), norm, buffers);
    }

    /// <summary>The stream behind the norm, where that comes after the sum.</summary>
    private Tensor Normalise(Tensor sum, Module<Tensor, Tensor>? norm, StepBuffers? buffers) =>
        preNorm || norm is null ? sum : RmsNorm.Step(norm, sum, buffers);
}
