using Hybrid.Layers;
using Hybrid.Routing;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <summary>
/// Builds a <see cref="HybridBackbone"/> step by step:
/// <c>new BackboneBuilder(256).WithPattern(LayerPattern.Every(6, 3)).WithMixer("mamba", new MambaOptions()).Build()</c>, or from a
/// record: <c>new BackboneBuilder(BackboneOptions.RecommendedDefaults).Build()</c>.
/// </summary>
public sealed partial class BackboneBuilder
{
    private readonly long width;
    private readonly Dictionary<string, object> mixerOptions = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Func<long, SequenceMixer>> factories = new(StringComparer.Ordinal);
    private readonly Dictionary<string, BlockOptions> blocksOf = new(StringComparer.Ordinal);
    private LayerPattern pattern = LayerPattern.Every(6, 3);
    private BlockOptions block = new();
    private MixtureOfExpertsOptions? experts;
    private IReadOnlyList<long>? transPoints;
    private long? inputWidth;
    private BackboneOutput output = BackboneOutput.Sequence;
    private PositionEncodingKind positionEncoding;
    private long? maxLength;
    private bool stateBridges;
    private bool hasInputNorm;
    private double? finalNormEps;
    private int? rescaleEvery;
    private Action<Module> place = _ => { };

    /// <param name="width">Model width D; at least 1.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="width"/> is below 1.</exception>
    public BackboneBuilder(long width)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        this.width = width;
    }

    /// <summary>Takes everything from a record; what follows may change it.</summary>
    /// <param name="options">The options.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or options exclude each other.</exception>
    public BackboneBuilder(BackboneOptions options)
        : this(options.HiddenSize) => options.ApplyTo(this);

    /// <summary>What each layer is. Default: six layers, attention at every third.</summary>
    /// <param name="value">The pattern.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithPattern(LayerPattern value)
    {
        pattern = value;
        return this;
    }

    /// <summary>Options of the layers that have this mixer.</summary>
    /// <param name="name">A registered name.</param>
    /// <param name="options">An options record of that mixer.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithMixer(string name, object options)
    {
        mixerOptions[name] = options;
        return this;
    }

    /// <summary>A mixer that is not registered: the layers of this name get what the factory makes, once for each layer.</summary>
    /// <param name="name">The name in the pattern, such as <see cref="LayerPattern.CustomName"/>; it must not be registered.</param>
    /// <param name="create">Makes a mixer from the model width D.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithFactory(string name, Func<long, SequenceMixer> create)
    {
        factories[name] = create;
        return this;
    }

    /// <summary>Norms, dropout and feed-forward of every block.</summary>
    /// <param name="value">The options.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithBlocks(BlockOptions value)
    {
        block = value;
        return this;
    }

    /// <summary>Norms, dropout and feed-forward of the blocks that have this mixer, in the place of <see cref="WithBlocks"/>.</summary>
    /// <param name="name">The name in the pattern.</param>
    /// <param name="value">The options.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithBlocksOf(string name, BlockOptions value)
    {
        blocksOf[name] = value;
        return this;
    }

    /// <summary>
    /// Experts in the layers that <see cref="MixtureOfExpertsOptions.IsExpertLayer"/> says, in the place of the feed-forward layer of
    /// <see cref="WithBlocks"/>; or, where the pattern names them, in the layers <see cref="LayerPattern.ExpertsName"/>.
    /// </summary>
    /// <param name="value">The options; null means no experts, or the defaults where the pattern names them.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithExperts(MixtureOfExpertsOptions? value)
    {
        experts = value;
        return this;
    }

    /// <summary>
    /// TransPoints of the layers that are attention up to one and a state space after it, <see cref="TransPointMixer"/> or a router of
    /// shared weights: first such layer first, and cycled. One point for all layers makes them all change their form of computation at
    /// the same token, which <see cref="TransPointOptions.StaggeredTransPoints"/> finds worse than no switch at all; different points are
    /// better than either.
    /// </summary>
    /// <param name="points">Points in tokens, each 0 or more; null means those of the paper.</param>
    /// <returns>This builder.</returns>
    /// <remarks>Layers of one mixer count apart from those of another.</remarks>
    public BackboneBuilder WithStaggeredTransPoints(IReadOnlyList<long>? points = null)
    {
        transPoints = points ?? TransPointOptions.StaggeredTransPoints;
        return this;
    }

    /// <summary>Width of the input where it differs from the model width; a linear layer joins them.</summary>
    /// <param name="value">Input width; at least 1.</param>
    /// <returns>This builder.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="value"/> is below 1.</exception>
    public BackboneBuilder WithInputWidth(long value)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(value, 1);
        inputWidth = value;
        return this;
    }

    /// <summary>The whole sequence [B, T, D] (default), or its last position [B, D].</summary>
    /// <param name="value">Which.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithOutput(BackboneOutput value)
    {
        output = value;
        return this;
    }

    /// <summary>Absolute positions, added to the input of the first layer. Default none.</summary>
    /// <param name="value">Which; a learned encoding needs <see cref="WithMaxLength"/>.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithPositions(PositionEncodingKind value)
    {
        positionEncoding = value;
        return this;
    }

    /// <summary>Longest sequence that the backbone takes, in one call or with a state. Default no limit.</summary>
    /// <param name="value">Tokens, at least 1; null means no limit.</param>
    /// <returns>This builder.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="value"/> is below 1.</exception>
    public BackboneBuilder WithMaxLength(long? value)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(value ?? 1, 1, nameof(value));
        maxLength = value;
        return this;
    }

    /// <summary>A <see cref="StateBridge"/> at each change of the mixer from one layer to the next. Default none.</summary>
    /// <param name="value">True for bridges.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithStateBridges(bool value = true)
    {
        stateBridges = value;
        return this;
    }

    /// <summary>A norm of the input of the first layer, of the kind that the blocks have, as in RWKV-4. Default none.</summary>
    /// <param name="value">Whether there is one.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithInputNorm(bool value = true)
    {
        hasInputNorm = value;
        return this;
    }

    /// <summary>Epsilon of the norm after the last layer. Default: that of the blocks.</summary>
    /// <param name="value">Positive; null means the default.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithFinalNormEps(double? value)
    {
        finalNormEps = value;
        return this;
    }

    /// <summary>
    /// Computes in evaluation mode what RWKV-4 computes with its stream halved after every n-th layer: the norms after k halvings have an
    /// epsilon of 4^k times theirs. It needs <see cref="NormKind.LayerNorm"/>. Default: no halving.
    /// </summary>
    /// <param name="every">Layers n, at least 1; null means no halving.</param>
    /// <returns>This builder.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="every"/> is below 1.</exception>
    public BackboneBuilder WithRescaling(int? every)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(every ?? 1, 1, nameof(every));
        rescaleEvery = every;
        return this;
    }

    /// <summary>
    /// Called with each module as soon as it is made, to move it to its device and dtype, so that no more than one stands in another place.
    /// </summary>
    internal BackboneBuilder WithPlacement(Action<Module> value)
    {
        place = value;
        return this;
    }
}
