using Hybrid.Layers;
using Hybrid.Routing;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <summary>
/// Builds a <see cref="HybridBackbone"/> step by step:
/// <c>new BackboneBuilder(256).WithPattern(LayerPattern.Every(6, 3)).WithMixer("mamba", new MambaOptions()).Build()</c>, or from a
/// record: <c>new BackboneBuilder(BackboneOptions.RecommendedDefaults).Build()</c>.
/// </summary>
public sealed class BackboneBuilder
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

    /// <summary>Makes the backbone; weights come from torch's default generator (<c>torch.manual_seed</c>).</summary>
    /// <returns>The backbone.</returns>
    /// <exception cref="ArgumentException">A layer cannot be built, or options are given that no layer uses.</exception>
    public HybridBackbone Build()
    {
        RequireUse("options are", mixerOptions.Keys);
        RequireUse("a factory is", factories.Keys);
        RequireUse("block options are", blocksOf.Keys);
        if (factories.Keys.FirstOrDefault(name => mixerOptions.ContainsKey(name) || MixerRegistry.TryGet(name, out _)) is { } taken)
        {
            throw new ArgumentException($"BackboneBuilder: '{taken}' is a registered mixer or has options, and has a factory too; leave one out.");
        }

        if (transPoints is not null && !pattern.Mixers.Any(HasTransPoint))
        {
            throw new ArgumentException(
                $"BackboneBuilder: TransPoints are given, but no layer has one; the layers are {string.Join(", ", pattern.Mixers)}.");
        }

        RequireFeedForwardUse();
        if (rescaleEvery is not null && block.Norm != NormKind.LayerNorm)
        {
            throw new ArgumentException($"BackboneBuilder: rescaling needs the norm {NormKind.LayerNorm}; the blocks have {block.Norm}.");
        }

        var position = positionEncoding == PositionEncodingKind.None ? null : new PositionEncoding(positionEncoding, width, maxLength);
        BlockOptions[] blockOptions = [.. pattern.Mixers.Select(BlockOf)];
        var expertLayers = blockOptions.Count(options => options.MixtureOfExperts is not null);
        ResidualBlock[] blocks =
            [.. pattern.Mixers.Select((name, layer) => Placed(MakeBlock(name, layer, blockOptions[layer] with { ExpertLayers = expertLayers })))];
        var inputNorm = hasInputNorm ? Placed(block.Norm.Create(width, block.NormEps)) : null;
        var finalNorm = Placed(block.Norm.Create(width, finalNormEps ?? block.NormEps, HalvingsBefore(pattern.Count)));
        return new HybridBackbone(width, inputWidth ?? width, pattern, blocks, output, inputNorm, finalNorm, position, maxLength, stateBridges);
    }

    private TModule Placed<TModule>(TModule module)
        where TModule : Module
    {
        place(module);
        return module;
    }

    private void RequireUse(string what, IEnumerable<string> names)
    {
        if (names.FirstOrDefault(name => !pattern.Mixers.Contains(name)) is { } unused)
        {
            throw new ArgumentException(
                $"BackboneBuilder: {what} given for '{unused}', but no layer has it; the layers are {string.Join(", ", pattern.Mixers)}.");
        }
    }

    /// <summary>Throws where a feed-forward layer or experts are asked for that no layer would have.</summary>
    private void RequireFeedForwardUse()
    {
        experts?.Validate();
        if (pattern.StatesFeedForward)
        {
            RequireOwnLayer(block.FeedForward is not null, "a feed-forward layer is", LayerPattern.MlpName);
            RequireOwnLayer(experts is not null, "options are", LayerPattern.ExpertsName);
            if (experts is not (null or { ExpertEvery: 1, ExpertOffset: 0 }))
            {
                throw new ArgumentException("BackboneBuilder: the pattern says which layers are experts; ExpertEvery and ExpertOffset have no meaning beside it.");
            }

            return;
        }

        var expertLayers = experts is null ? 0 : Enumerable.Range(0, pattern.Count).Count(experts.IsExpertLayer);
        if (experts is not null && expertLayers == 0)
        {
            throw new ArgumentException(
                $"BackboneBuilder: options are given for experts, but none of the {pattern.Count} layers has them; the first would be layer {experts.ExpertOffset}.");
        }

        if (block.FeedForward is not null && expertLayers == pattern.Count)
        {
            throw new ArgumentException(
                "BackboneBuilder: a feed-forward layer is asked for, but experts take its place in every layer; leave one of them out.");
        }

        void RequireOwnLayer(bool given, string what, string name)
        {
            if (given && !pattern.Mixers.Contains(name))
            {
                throw new ArgumentException(
                    $"BackboneBuilder: {what} given, but the pattern states its feed-forward layers and has no '{name}': {string.Join(", ", pattern.Mixers)}.");
            }
        }
    }

    private ResidualBlock MakeBlock(string name, int layer, BlockOptions options)
    {
        try
        {
            return name is LayerPattern.MlpName or LayerPattern.ExpertsName
                ? new ResidualBlock(width, options)
                : new ResidualBlock(MakeMixer(name, layer), options);
        }
        catch (ArgumentException error)
        {
            throw new ArgumentException($"BackboneBuilder: layer {layer} ('{name}') cannot be built: {error.Message}", error);
        }
    }

    private int HalvingsBefore(int layer) => rescaleEvery is { } every ? layer / every : 0;

    private BlockOptions BlockOf(string name, int layer)
    {
        var options = blocksOf.GetValueOrDefault(name, block) with { Halvings = HalvingsBefore(layer) };
        return name switch
        {
            LayerPattern.MlpName => options with { FeedForward = options.FeedForward ?? new() },
            LayerPattern.ExpertsName => options with { FeedForward = null, MixtureOfExperts = experts ?? new() },
            _ when pattern.StatesFeedForward => options with { FeedForward = null },
            _ when experts?.IsExpertLayer(layer) == true => options with { FeedForward = null, MixtureOfExperts = experts },
            _ => options,
        };
    }

    private SequenceMixer MakeMixer(string name, int layer)
    {
        if (name == LayerPattern.CustomName && !factories.ContainsKey(name))
        {
            throw new ArgumentException($"'{name}' needs a factory; a registered mixer goes by its own name.");
        }

        var mixer = factories.TryGetValue(name, out var create) ? create(width) : MixerRegistry.Create(name, width, OptionsFor(name, layer));
        MixerProbe.Check(mixer, width);
        return mixer;
    }

    private bool HasTransPoint(string name) =>
        name == "trans_point" || mixerOptions.GetValueOrDefault(name) is HybridAttentionOptions { Weights: BranchWeights.Shared };

    /// <summary>What the layer's mixer is made from. Layers that have the same mixer take its TransPoints in turn.</summary>
    private object? OptionsFor(string name, int layer)
    {
        var options = mixerOptions.GetValueOrDefault(name);
        var index = pattern.Mixers.Take(layer).Count(other => other == name);
        return name switch
        {
            "hybrid_attention" when options is null or HybridAttentionOptions =>
                SharedWeights.ForLayer(InsideBlock((HybridAttentionOptions?)options ?? new()), index, transPoints),
            "trans_point" when options is TransPointOptions own => (transPoints is null ? own : own with { TransPoints = transPoints }).ForLayer(index),
            "trans_point" when options is null && transPoints is not null => new TransPointOptions { TransPoints = transPoints }.ForLayer(index),
            _ => options,
        };
    }

    /// <summary>
    /// Inside a block the router's branches are bare mixers: the block has the norm, the residual and the feed-forward layer. What the
    /// router's options say of those would have no effect, so it is refused.
    /// </summary>
    private static HybridAttentionOptions InsideBlock(HybridAttentionOptions router)
    {
        var standard = new HybridAttentionOptions();
        if ((router.IntermediateSize, router.DropoutRate, router.LayerNormEps) != (standard.IntermediateSize, standard.DropoutRate, standard.LayerNormEps))
        {
            throw new ArgumentException(
                "IntermediateSize, DropoutRate and LayerNormEps are for a router that stands alone; in a backbone the blocks have the feed-forward layer, the dropout and the norm.");
        }

        return router with { ResidualBranches = false };
    }
}
