using Hybrid.Backbone;
using Hybrid.Layers;

namespace Hybrid.Modeling;

/// <summary>Options of a <see cref="CausalLanguageModel"/>; the [model] table of a TOML file binds to it.</summary>
public sealed record LanguageModelOptions
{
    /// <summary>Number of token ids V; at least 1. Default 256, one a byte.</summary>
    public long VocabSize { get; init; } = 256;

    /// <summary>Model width D; at least 1. Default 256.</summary>
    public long HiddenSize { get; init; } = 256;

    /// <summary>Number of layers; at least 1. Default 6.</summary>
    public int NumLayers { get; init; } = 6;

    /// <summary>Longest sequence, prompt and continuation together, in tokens; at least 1. Default 2048.</summary>
    public long MaxSeqLen { get; init; } = 2048;

    /// <summary>Uses the embedding matrix as the head too. Default true.</summary>
    public bool TieEmbeddings { get; init; } = true;

    /// <summary>Epsilon of the norms; positive. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>Dropout on the embedding and on each branch while training. Default 0.</summary>
    public double DropoutRate { get; init; }

    /// <summary>Normalises before each branch (true, the default) or after the residual sum.</summary>
    public bool PreNorm { get; init; } = true;

    /// <summary>Mixer of the layers that are not attention; null means "mamba". Excludes <see cref="Layers"/>, which name every mixer.</summary>
    public string? Backbone { get; init; }

    /// <summary>Attention at every layer (counted from 1) that is a multiple of this; null means 3 unless the layers are given otherwise.</summary>
    public int? AttentionEvery { get; init; }

    /// <summary>Attention at these layers, counted from 0; excludes <see cref="AttentionEvery"/>.</summary>
    public IReadOnlyList<int>? AttentionLayers { get; init; }

    /// <summary>Mixer names, repeated until every layer has one; excludes the other ways to state the layers.</summary>
    public IReadOnlyList<string>? Layers { get; init; }

    /// <summary>A state bridge at each change of the mixer from one layer to the next, of which there must be one. Default false.</summary>
    public bool StateBridge { get; init; }

    /// <summary>The feed-forward layer of every block that has no experts; null leaves it out.</summary>
    public FeedForwardOptions? FeedForward { get; init; }

    /// <summary>Experts, and which layers have them in the place of the feed-forward layer; null means none.</summary>
    public MixtureOfExpertsOptions? MixtureOfExperts { get; init; }

    /// <summary>Options records of mixers, by mixer name; a mixer without an entry has its defaults.</summary>
    public IReadOnlyDictionary<string, object> Mixers { get; init; } = new Dictionary<string, object>();

    /// <summary>Which mixer each layer has.</summary>
    /// <returns>The pattern.</returns>
    /// <exception cref="ArgumentException">The layers are stated in more than one way, or do not fit their number.</exception>
    public LayerPattern ResolvePattern()
    {
        var ways = new (string Name, bool Given)[]
        {
            ("Layers", Layers is not null), ("AttentionEvery", AttentionEvery is not null), ("AttentionLayers", AttentionLayers is not null),
        };
        var given = ways.Where(way => way.Given).Select(way => way.Name).ToArray();
        if (given.Length > 1)
        {
            throw new ArgumentException($"LanguageModelOptions: state the layers in one way only; got {string.Join(" and ", given)}.");
        }

        if (Layers is not null && Backbone is not null)
        {
            throw new ArgumentException("LanguageModelOptions: Layers name every mixer; Backbone has no meaning beside them.");
        }

        if (Layers is not null)
        {
            return LayerPattern.Cycle(NumLayers, Layers);
        }

        var backbone = Backbone ?? "mamba";
        return AttentionLayers is not null
            ? LayerPattern.At(NumLayers, AttentionLayers, backbone)
            : LayerPattern.Every(NumLayers, AttentionEvery ?? 3, backbone);
    }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(VocabSize), VocabSize, 1);
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(HiddenSize), HiddenSize, 1);
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(NumLayers), NumLayers, 1);
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(MaxSeqLen), MaxSeqLen, 1);
        OptionRange.Positive(nameof(LanguageModelOptions), nameof(NormEps), NormEps);
        OptionRange.DropRate(nameof(LanguageModelOptions), nameof(DropoutRate), DropoutRate);
    }
}
