using Hybrid.Layers;
using Hybrid.Routing;

namespace Hybrid.Backbone;

/// <summary>
/// Builds a <see cref="HybridBackbone"/> step by step:
/// <c>new BackboneBuilder(256).WithPattern(LayerPattern.Every(6, 3)).WithMixer("mamba", new MambaOptions()).Build()</c>.
/// </summary>
public sealed class BackboneBuilder
{
    private readonly long width;
    private readonly Dictionary<string, object> mixerOptions = new(StringComparer.Ordinal);
    private LayerPattern pattern = LayerPattern.Every(6, 3);
    private BlockOptions block = new();
    private MixtureOfExpertsOptions? experts;
    private IReadOnlyList<long>? transPoints;
    private long? inputWidth;
    private BackboneOutput output = BackboneOutput.Sequence;

    /// <param name="width">Model width D; at least 1.</param>
    public BackboneBuilder(long width)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        this.width = width;
    }

    /// <summary>Which mixer each layer has. Default: six layers, attention at every third.</summary>
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

    /// <summary>Norms, dropout and feed-forward of every block.</summary>
    /// <param name="value">The options.</param>
    /// <returns>This builder.</returns>
    public BackboneBuilder WithBlocks(BlockOptions value)
    {
        block = value;
        return this;
    }

    /// <summary>
    /// Experts in the layers that <see cref="MixtureOfExpertsOptions.IsExpertLayer"/> says, in the place of the feed-forward layer of
    /// <see cref="WithBlocks"/>.
    /// </summary>
    /// <param name="value">The options; null means no experts.</param>
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

    /// <summary>Makes the backbone; weights come from torch's default generator (<c>torch.manual_seed</c>).</summary>
    /// <returns>The backbone.</returns>
    /// <exception cref="ArgumentException">A mixer of the pattern is unknown, or options are given for a mixer that is not in it.</exception>
    public HybridBackbone Build()
    {
        foreach (var name in mixerOptions.Keys)
        {
            if (!pattern.Mixers.Contains(name))
            {
                throw new ArgumentException(
                    $"BackboneBuilder: options are given for '{name}', but no layer has it; the layers are {string.Join(", ", pattern.Mixers)}.");
            }
        }

        if (transPoints is not null && !pattern.Mixers.Any(HasTransPoint))
        {
            throw new ArgumentException(
                $"BackboneBuilder: TransPoints are given, but no layer has one; the layers are {string.Join(", ", pattern.Mixers)}.");
        }

        experts?.Validate();
        if (experts is not null && !Enumerable.Range(0, pattern.Count).Any(experts.IsExpertLayer))
        {
            throw new ArgumentException(
                $"BackboneBuilder: options are given for experts, but none of the {pattern.Count} layers has them; the first would be layer {experts.ExpertOffset}.");
        }

        if (experts is not null && block.FeedForward is not null && Enumerable.Range(0, pattern.Count).All(experts.IsExpertLayer))
        {
            throw new ArgumentException(
                "BackboneBuilder: a feed-forward layer is asked for, but experts take its place in every layer; leave one of them out.");
        }

        return new HybridBackbone(width, inputWidth ?? width, pattern, [.. pattern.Mixers.Select(MakeBlock)], output, block.NormEps);
    }

    private ResidualBlock MakeBlock(string name, int layer)
    {
        try
        {
            var options = experts?.IsExpertLayer(layer) == true ? block with { FeedForward = null, MixtureOfExperts = experts } : block;
            return new ResidualBlock(MixerRegistry.Create(name, width, OptionsFor(name, layer)), options);
        }
        catch (ArgumentException error)
        {
            throw new ArgumentException($"BackboneBuilder: layer {layer} ('{name}') cannot be built: {error.Message}", error);
        }
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
