using Hybrid.Backbone;
using Hybrid.Layers;
using static TorchSharp.torch;

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

    /// <summary>
    /// Float32 (the default); or BFloat16 or Float16 for mixed precision, in which a new model's matrices have that dtype, see
    /// <see cref="MixedPrecision"/>. Torch computes Float16 on GPUs alone.
    /// </summary>
    public ScalarType Precision { get; init; } = ScalarType.Float32;

    /// <summary>Uses the embedding matrix as the head too. Default true.</summary>
    public bool TieEmbeddings { get; init; } = true;

    /// <summary>Factor of the embedding; positive. Default 1.</summary>
    public double EmbeddingMultiplier { get; init; } = 1;

    /// <summary>Factor of each branch of a layer before it is added to the residual stream; positive. Default 1.</summary>
    public double ResidualMultiplier { get; init; } = 1;

    /// <summary>Factor of the logits; positive. Default 1.</summary>
    public double LogitsMultiplier { get; init; } = 1;

    /// <summary>Bends logits l to <c>cap * tanh(l / cap)</c>, so that none exceeds the cap; positive, null means not.</summary>
    public double? LogitsSoftCap { get; init; }

    /// <summary>The norms. Default RMS.</summary>
    public NormKind Norm { get; init; }

    /// <summary>Epsilon of the norms; positive. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>Epsilon of the norm after the last layer; positive, null means <see cref="NormEps"/>.</summary>
    public double? FinalNormEps { get; init; }

    /// <summary>
    /// In evaluation mode, computes with norms as if the residual stream were halved after every so many layers, see
    /// <see cref="BackboneBuilder.WithRescaling"/>; at least 1. Default null: not.
    /// </summary>
    public int? RescaleEvery { get; init; }

    /// <summary>Normalises the embedding before the first layer, as RWKV-4 does. Default false.</summary>
    public bool NormEmbedding { get; init; }

    /// <summary>Dropout on the embedding and on each branch while training. Default 0.</summary>
    public double DropoutRate { get; init; }

    /// <summary>Normalises before each branch (true, the default) or after the residual sum.</summary>
    public bool PreNorm { get; init; } = true;

    /// <summary>Mixer of the layers that are not attention; null means "mamba". Excludes <see cref="Layers"/>, which name every mixer.</summary>
    public string? Backbone { get; init; }

    /// <summary>Attention at every layer (counted from 1) that is a multiple of this; null means 3 unless the layers are given otherwise.</summary>
    public int? AttentionEvery { get; init; }

    /// <summary>Attention at these layers, counted from 0; excludes the other ways to state the layers.</summary>
    public IReadOnlyList<int>? AttentionLayers { get; init; }

    /// <summary>Parts of the backbone mixer and of attention, spread evenly; excludes the other ways.</summary>
    public LayerRatio? Ratio { get; init; }

    /// <summary>A symbol a layer, see <see cref="LayerPattern.FromSymbols"/>; excludes the other ways.</summary>
    public string? HybridOverridePattern { get; init; }

    /// <summary>Names, repeated until every layer has one; excludes the other ways.</summary>
    public IReadOnlyList<string>? Layers { get; init; }

    /// <summary>Absolute positions added to the embedding, learned ones for <see cref="MaxSeqLen"/> tokens. Default none.</summary>
    public PositionEncodingKind PositionEncoding { get; init; }

    /// <summary>Computes each block again in the backward pass, see <see cref="BlockOptions.UseGradientCheckpointing"/>. Default false.</summary>
    public bool UseGradientCheckpointing { get; init; }

    /// <summary>A state bridge at each change of the mixer from one layer to the next, of which there must be one. Default false.</summary>
    public bool StateBridge { get; init; }

    /// <summary>
    /// The feed-forward layer of every block that has no experts, or, where the layers name them, of the layers "mlp"; null leaves it
    /// out there, and means its defaults here.
    /// </summary>
    public FeedForwardOptions? FeedForward { get; init; }

    /// <summary>
    /// Experts, and which layers have them in the place of the feed-forward layer, or, where the layers name them, those of the layers
    /// "experts"; null means none there, and their defaults here.
    /// </summary>
    public MixtureOfExpertsOptions? MixtureOfExperts { get; init; }

    /// <summary>Options records of mixers, by mixer name; a mixer without an entry has its defaults.</summary>
    public IReadOnlyDictionary<string, object> Mixers { get; init; } = new Dictionary<string, object>();

    /// <summary>What each layer is.</summary>
    /// <returns>The pattern.</returns>
    /// <exception cref="ArgumentException">The layers are stated in more than one way, or do not fit their number.</exception>
    public LayerPattern ResolvePattern() => new LayerStatement(
        nameof(LanguageModelOptions), NumLayers, Backbone, AttentionEvery, AttentionLayers, Ratio, HybridOverridePattern, Layers).Resolve();

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(VocabSize), VocabSize, 1);
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(HiddenSize), HiddenSize, 1);
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(NumLayers), NumLayers, 1);
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(MaxSeqLen), MaxSeqLen, 1);
        OptionRange.Positive(nameof(LanguageModelOptions), nameof(EmbeddingMultiplier), EmbeddingMultiplier);
        OptionRange.Positive(nameof(LanguageModelOptions), nameof(ResidualMultiplier), ResidualMultiplier);
        OptionRange.Positive(nameof(LanguageModelOptions), nameof(LogitsMultiplier), LogitsMultiplier);
        OptionRange.Positive(nameof(LanguageModelOptions), nameof(LogitsSoftCap), LogitsSoftCap ?? 1);
        OptionRange.AtLeast(nameof(LanguageModelOptions), nameof(RescaleEvery), RescaleEvery ?? 1, 1);
        OptionRange.Positive(nameof(LanguageModelOptions), nameof(NormEps), NormEps);
        OptionRange.Positive(nameof(LanguageModelOptions), nameof(FinalNormEps), FinalNormEps ?? 1);
        OptionRange.DropRate(nameof(LanguageModelOptions), nameof(DropoutRate), DropoutRate);
        if (Precision != ScalarType.Float32 && !MixedPrecision.IsHalf(Precision))
        {
            throw new ArgumentException(
                $"LanguageModelOptions.{nameof(Precision)} must be float32, bfloat16 or float16; got {Precision}.", nameof(Precision));
        }
    }
}
