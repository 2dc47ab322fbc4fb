using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Routing;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Modeling;

/// <summary>
/// A causal language model: embedding, <see cref="HybridBackbone"/>, head. <c>logits = backbone(embed(ids)) W^T</c>, where W is the
/// embedding itself if the head is tied.
/// </summary>
public sealed class CausalLanguageModel : Module<Tensor, Tensor>
{
    private const double InitialDeviation = 0.02;

    private readonly bool hasExperts;

    [ComponentName(Name = "embedding")]
    private readonly TokenEmbedding embedding;

    [ComponentName(Name = "dropout")]
    private readonly Dropout? dropout;

    [ComponentName(Name = "backbone")]
    private readonly HybridBackbone backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Linear? head;

    /// <summary>Makes a model with fresh weights, drawn from torch's default generator (<c>torch.manual_seed</c>).</summary>
    /// <param name="options">Sizes and layers.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or a layer cannot be built from it.</exception>
    public CausalLanguageModel(LanguageModelOptions options)
        : base(nameof(CausalLanguageModel))
    {
        options.Validate();
        Options = options;
        embedding = new TokenEmbedding(options.VocabSize, options.HiddenSize, InitialDeviation);
        dropout = options.DropoutRate > 0 ? Dropout(options.DropoutRate) : null;
        backbone = BuildBackbone(options);
        hasExperts = backbone.Blocks.Any(block => block.Experts is not null);
        head = options.TieEmbeddings ? null : Linear(options.HiddenSize, options.VocabSize, hasBias: false);
        Tokenizer = options.VocabSize == ByteTokenizer.Vocabulary ? new ByteTokenizer() : null;
        RegisterComponents();
        Initialise();
    }

    /// <summary>The options that the model was made from.</summary>
    public LanguageModelOptions Options { get; }

    /// <summary>Turns text into ids and back; by default bytes where the vocabulary has 256 ids, else null.</summary>
    public ITokenizer? Tokenizer { get; set; }

    /// <summary>The stack of layers.</summary>
    public HybridBackbone Backbone => backbone;

    /// <summary>The routers of the model, first layer first.</summary>
    public IReadOnlyList<HybridAttention> Routers => [.. backbone.Blocks.Select(block => block.Mixer).OfType<HybridAttention>()];

    /// <summary>The device of the weights.</summary>
    public Device Device => embedding.Weight.device;

    /// <summary>Number of parameters; a tied head counts once.</summary>
    /// <returns>The number of scalar weights.</returns>
    public long CountParameters() => parameters().Sum(parameter => parameter.numel());

    /// <summary>Creates the state of sequences that have seen no token yet.</summary>
    /// <param name="batchSize">Number of sequences B; at least 1.</param>
    /// <returns>The state; the caller disposes it.</returns>
    public CompositeState CreateState(long batchSize) => backbone.CreateState(batchSize);

    /// <summary>Logits of every position, without carrying state.</summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <returns>Logits [B, T, V].</returns>
    public override Tensor forward(Tensor input) => forward(input, MixerContext.None);

    /// <summary>Logits of every position.</summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <param name="context">State, padding, packed rows.</param>
    /// <returns>Logits [B, T, V]; those at padding mean nothing.</returns>
    public Tensor forward(Tensor input, MixerContext context)
    {
        using var scope = NewDisposeScope();
        return Head(Hidden(input, context)).MoveToOuterDisposeScope();
    }

    /// <summary>Logits of the last position alone, which is what decoding needs.</summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <param name="context">State and packed rows; no padding.</param>
    /// <returns>Logits [B, V].</returns>
    public Tensor NextTokenLogits(Tensor input, MixerContext context)
    {
        if (context.Lengths is not null)
        {
            throw new NotSupportedException("CausalLanguageModel: NextTokenLogits takes no padded rows; use forward and pick the positions.");
        }

        using var scope = NewDisposeScope();
        var hidden = Hidden(input, context);
        return Head(hidden.select(1, hidden.size(1) - 1)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Mean cross-entropy, in nats a token. In training mode a model with experts adds the mean of their layers' load-balance losses, times
    /// <see cref="MixtureOfExpertsOptions.RouterAuxLossCoefficient"/>, and every model adds <see cref="MixerContext.AuxiliaryLosses"/>.
    /// </summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <param name="targets">The ids to predict at each position, int64 [B, T]; -100 is left out.</param>
    /// <returns>A scalar.</returns>
    public Tensor Loss(Tensor input, Tensor targets)
    {
        if (!input.shape.AsSpan().SequenceEqual(targets.shape))
        {
            throw new ArgumentException(
                $"CausalLanguageModel: targets must be [{string.Join(", ", input.shape)}], like the ids; got [{string.Join(", ", targets.shape)}].",
                nameof(targets));
        }

        using var scope = NewDisposeScope();
        var coefficient = training && hasExperts ? (Options.MixtureOfExperts ?? new()).RouterAuxLossCoefficient : 0;
        var balanceLosses = coefficient > 0 ? new List<Tensor>() : null;
        var mixerLosses = new List<Tensor>();
        var context = training ? MixerContext.None with { AuxiliaryLosses = mixerLosses } : MixerContext.None;
        var logits = Head(Hidden(input, context, balanceLosses)).view(-1, Options.VocabSize);
        mixerLosses.ForEach(mixerLoss => scope.Attach(mixerLoss));
        var loss = mixerLosses.Aggregate(functional.cross_entropy(logits, targets.reshape(-1)), (sum, mixerLoss) => sum + mixerLoss);
        return (balanceLosses is null ? loss : loss + (stack(balanceLosses).mean() * coefficient)).MoveToOuterDisposeScope();
    }

    private Tensor Hidden(Tensor ids, MixerContext context, List<Tensor>? balanceLosses = null)
    {
        var shape = ids.shape;
        if (shape is not [>= 1, >= 1] || ids.dtype != ScalarType.Int64)
        {
            throw new ArgumentException(
                $"CausalLanguageModel: ids must be Int64 [B, T] with B, T >= 1; got {ids.dtype} [{string.Join(", ", shape)}].", nameof(ids));
        }

        var total = context.State?.PositionAfter(shape[1], context.Lengths) ?? shape[1];
        if (total > Options.MaxSeqLen)
        {
            throw new ArgumentException(
                $"CausalLanguageModel: the sequence would have {total} tokens; max_seq_len is {Options.MaxSeqLen}.", nameof(ids));
        }

        var embedded = embedding.call(ids);
        return backbone.forward(dropout?.call(embedded) ?? embedded, context, balanceLosses);
    }

    private Tensor Head(Tensor hidden) => head is null ? LinearStep.Linear(hidden, embedding.Weight) : LinearStep.Apply(head, hidden);

    private static HybridBackbone BuildBackbone(LanguageModelOptions options)
    {
        var pattern = options.ResolvePattern();
        var builder = new BackboneBuilder(options.HiddenSize).WithPattern(pattern).WithExperts(options.MixtureOfExperts).WithStateBridges(options.StateBridge).WithBlocks(new BlockOptions
        {
            NormEps = options.NormEps,
            DropoutRate = options.DropoutRate,
            PreNorm = options.PreNorm,
            FeedForward = options.FeedForward,
            UseGradientCheckpointing = options.UseGradientCheckpointing,
        });
        builder.WithPositions(options.PositionEncoding).WithMaxLength(options.MaxSeqLen);
        foreach (var name in pattern.Mixers.Distinct().Union(options.Mixers.Keys))
        {
            if (WithMaxLength(name, options.Mixers.GetValueOrDefault(name), options.MaxSeqLen) is { } mixerOptions)
            {
                builder.WithMixer(name, mixerOptions);
            }
        }

        return builder.Build();
    }

    /// <summary>Attention caches take no more than the model's longest sequence, unless they say otherwise.</summary>
    private static object? WithMaxLength(string name, object? mixerOptions, long maxLength)
    {
        switch (name, mixerOptions)
        {
            case ("attention", null or AttentionOptions):
                var attention = mixerOptions as AttentionOptions ?? new();
                return attention with { MaxLength = attention.MaxLength ?? maxLength };
            case ("parallel", null or ParallelMixerOptions):
                var parallel = mixerOptions as ParallelMixerOptions ?? new();
                return parallel with { AttentionConfig = parallel.AttentionConfig with { MaxLength = parallel.AttentionConfig.MaxLength ?? maxLength } };
            case ("hybrid_attention", null or HybridAttentionOptions { Weights: BranchWeights.Separate }):
                var router = mixerOptions as HybridAttentionOptions ?? new();
                return router with { AttentionConfig = router.AttentionConfig with { MaxLength = router.AttentionConfig.MaxLength ?? maxLength } };
            default:
                return mixerOptions;
        }
    }

    private void Initialise()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        head?.weight.normal_(0, InitialDeviation);
        var branches = backbone.Blocks.Sum(block => block.Branches);
        foreach (var weight in backbone.Blocks.SelectMany(block => block.ResidualOutputWeights))
        {
            weight.div_(Math.Sqrt(branches));
        }
    }
}
