using Hybrid.Attention;
using Hybrid.Layers;

namespace Hybrid.Backbone;

/// <summary>
/// A backbone of one record: sizes, layers and what its mixers share. The [backbone] table of a TOML file binds to it, and
/// <see cref="BackboneBuilder(BackboneOptions)"/> builds it. As in Jamba-style stacks of this form, only the attention layers have a
/// feed-forward layer (and layers that are one, see <see cref="HybridOverridePattern"/>).
/// </summary>
public sealed record BackboneOptions
{
    /// <summary>
    /// The recommended stack with its layers written out: six layers, Mamba and at every third attention. To state other layers in
    /// another way, set <see cref="AttentionEvery"/> to null too. All other options have their defaults.
    /// </summary>
    public static BackboneOptions RecommendedDefaults { get; } = new() { AttentionEvery = 3, Backbone = "mamba" };

    /// <summary>Width of the input; at least 1. Null means <see cref="HiddenSize"/>; another width goes through a linear layer.</summary>
    public long? EmbedDim { get; init; }

    /// <summary>Model width D; at least 1. Default 256.</summary>
    public long HiddenSize { get; init; } = 256;

    /// <summary>Number of layers; at least 1. Default 6.</summary>
    public int NumLayers { get; init; } = 6;

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

    /// <summary>
    /// Mixer of the layers that are not attention: a registered name, or "custom" for <see cref="Custom"/>; null means "mamba". Excludes
    /// <see cref="Layers"/>, which name every mixer.
    /// </summary>
    public string? Backbone { get; init; }

    /// <summary>Makes the mixer of the layers "custom", once for each layer; its output shape is tried when the backbone is built.</summary>
    public Func<BackboneOptions, SequenceMixer>? Custom { get; init; }

    /// <summary>State size N of Mamba and Mamba-2; at least 1. Default 16.</summary>
    public long StateSize { get; init; } = 16;

    /// <summary>Inner width over the model width, of Mamba, Mamba-2 and the gated state space; at least 1. Default 2.</summary>
    public long ExpandFactor { get; init; } = 2;

    /// <summary>Taps of the short convolution of Mamba, Mamba-2, the delta nets and Griffin; at least 1. Default 4.</summary>
    public long ConvSize { get; init; } = 4;

    /// <summary>Heads of attention and of the delta nets; at least 1. Default 4.</summary>
    public long NumHeads { get; init; } = 4;

    /// <summary>Width of a head of attention, Mamba-2 and the delta nets; at least 1. Default 64.</summary>
    public long HeadDim { get; init; } = 64;

    /// <summary>Keys that a token sees, itself counted, with <see cref="UseSlidingWindow"/>; at least 1. Default 60.</summary>
    public long WindowSize { get; init; } = 60;

    /// <summary>Limits attention to the last <see cref="WindowSize"/> keys (true, the default), or lets it see all before.</summary>
    public bool UseSlidingWindow { get; init; } = true;

    /// <summary>Normalises queries and keys per head. Default true.</summary>
    public bool QkLayernorm { get; init; } = true;

    /// <summary>Rotary positions in attention. Default false.</summary>
    public bool UseRope { get; init; }

    /// <summary>Computes attention in chunks of queries, see <see cref="AttentionMode.Chunked"/>. Default false.</summary>
    public bool ChunkedAttention { get; init; }

    /// <summary>Computes attention with a running softmax, see <see cref="AttentionMode.Online"/>. Default false.</summary>
    public bool MemoryEfficientAttention { get; init; }

    /// <summary>Queries, and keys, of a chunk of attention; at least 1. Default 32.</summary>
    public long ChunkSize { get; init; } = 32;

    /// <summary>Dropout on each branch while training: 0 or more, below 1. Default 0.1.</summary>
    public double Dropout { get; init; } = 0.1;

    /// <summary>Normalises before each branch (true, the default) or after the residual sum.</summary>
    public bool PreNorm { get; init; } = true;

    /// <summary>Epsilon of the norms; positive. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>Longest sequence, in tokens; at least 1. Null, the default, means no limit.</summary>
    public long? SeqLen { get; init; }

    /// <summary>Absolute positions added to the input of the first layer; learned ones need <see cref="SeqLen"/>. Default none.</summary>
    public PositionEncodingKind PositionEncoding { get; init; }

    /// <summary>The whole sequence (default) or its last position.</summary>
    public BackboneOutput Output { get; init; }

    /// <summary>Computes each block again in the backward pass, see <see cref="BlockOptions.UseGradientCheckpointing"/>. Default false.</summary>
    public bool UseGradientCheckpointing { get; init; }

    /// <summary>The feed-forward layer of the attention layers, and of the layers "mlp". Default: GELU, inner width 4 D.</summary>
    public FeedForwardOptions FeedForward { get; init; } = new() { Kind = FeedForwardKind.Gelu };

    /// <summary>The experts of the layers "experts"; null means their defaults.</summary>
    public MixtureOfExpertsOptions? MixtureOfExperts { get; init; }

    /// <summary>
    /// Options records of mixers, by name. A record says all of its mixer: options of this one that the mixer would share keep their
    /// defaults then.
    /// </summary>
    public IReadOnlyDictionary<string, object> Mixers { get; init; } = new Dictionary<string, object>();

    /// <summary>What each layer is.</summary>
    /// <returns>The pattern.</returns>
    /// <exception cref="ArgumentException">The layers are stated in more than one way, or do not fit their number.</exception>
    public LayerPattern ResolvePattern() => new LayerStatement(
        nameof(BackboneOptions), NumLayers, Backbone, AttentionEvery, AttentionLayers, Ratio, HybridOverridePattern, Layers).Resolve();

    /// <summary>Throws where a value is out of its range, or options exclude each other.</summary>
    public void Validate()
    {
        const string owner = nameof(BackboneOptions);
        OptionRange.AtLeast(owner, nameof(EmbedDim), EmbedDim ?? 1, 1);
        OptionRange.AtLeast(owner, nameof(HiddenSize), HiddenSize, 1);
        OptionRange.AtLeast(owner, nameof(NumLayers), NumLayers, 1);
        OptionRange.AtLeast(owner, nameof(StateSize), StateSize, 1);
        OptionRange.AtLeast(owner, nameof(ExpandFactor), ExpandFactor, 1);
        OptionRange.AtLeast(owner, nameof(ConvSize), ConvSize, 1);
        OptionRange.AtLeast(owner, nameof(NumHeads), NumHeads, 1);
        OptionRange.AtLeast(owner, nameof(HeadDim), HeadDim, 1);
        OptionRange.AtLeast(owner, nameof(WindowSize), WindowSize, 1);
        OptionRange.AtLeast(owner, nameof(ChunkSize), ChunkSize, 1);
        OptionRange.AtLeast(owner, nameof(SeqLen), SeqLen ?? 1, 1);
        OptionRange.DropRate(owner, nameof(Dropout), Dropout);
        OptionRange.Positive(owner, nameof(NormEps), NormEps);
        if (ChunkedAttention && MemoryEfficientAttention)
        {
            throw new ArgumentException($"{owner}: ChunkedAttention and MemoryEfficientAttention exclude each other.", nameof(MemoryEfficientAttention));
        }

        if (PositionEncoding == PositionEncodingKind.Learned && SeqLen is null)
        {
            throw new ArgumentException($"{owner}: SeqLen must be given for a learned PositionEncoding.", nameof(PositionEncoding));
        }
    }

    /// <summary>States everything to a builder.</summary>
    /// <param name="builder">A builder of the width <see cref="HiddenSize"/>.</param>
    internal void ApplyTo(BackboneBuilder builder)
    {
        Validate();
        var pattern = ResolvePattern();
        var names = pattern.Mixers.Distinct().ToArray();
        var shared = new SharedMixerOptions(this, pattern);
        shared.RequireUse();
        var block = new BlockOptions
        {
            NormEps = NormEps, DropoutRate = Dropout, PreNorm = PreNorm, UseGradientCheckpointing = UseGradientCheckpointing,
        };
        builder.WithPattern(pattern).WithBlocks(block).WithExperts(MixtureOfExperts)
            .WithInputWidth(EmbedDim ?? HiddenSize).WithOutput(Output).WithPositions(PositionEncoding).WithMaxLength(SeqLen);
        foreach (var name in names.Where(name => name is LayerPattern.AttentionName or LayerPattern.MlpName))
        {
            builder.WithBlocksOf(name, block with { FeedForward = FeedForward });
        }

        foreach (var name in names.Union(Mixers.Keys))
        {
            if (shared.Of(name) is { } options)
            {
                builder.WithMixer(name, options);
            }
        }

        if (Custom is { } create)
        {
            builder.WithFactory(LayerPattern.CustomName, _ => create(this));
        }
    }
}
