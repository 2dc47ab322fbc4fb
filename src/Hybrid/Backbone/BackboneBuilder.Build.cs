using Hybrid.Layers;
using Hybrid.Routing;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <content>Making the backbone from what was said, and refusing what no layer would use.</content>
public sealed partial class BackboneBuilder
{
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
