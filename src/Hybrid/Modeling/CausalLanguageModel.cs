using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Routing;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Modeling;

/// <summary>
/// A causal language model: embedding, <see cref="HybridBackbone"/>, head. <c>logits = backbone(embed(ids)) W^T</c>, where W is the
/// embedding itself if the head is tied. Multipliers and a soft cap of the logits come on top where the options have them.
/// </summary>
public sealed partial class CausalLanguageModel : Module<Tensor, Tensor>
{
    private const double InitialDeviation = 0.02;

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
        : this(options, null, _ => { })
    {
        Initialise();
        if (options.Precision != ScalarType.Float32)
        {
            ToMixedPrecision(options.Precision);
        }

        Tokenizer = options.VocabSize == ByteTokenizer.Vocabulary ? new ByteTokenizer() : null;
    }

    /// <summary>Makes a model whose weights are to be loaded.</summary>
    /// <param name="options">Sizes and layers.</param>
    /// <param name="customise">Adds to the builder what options cannot state, such as mixers that share weights; null adds nothing.</param>
    /// <param name="place">Moves each module, as soon as it is made, to its device and dtype.</param>
    internal CausalLanguageModel(LanguageModelOptions options, Action<BackboneBuilder>? customise, Action<Module> place)
        : base(nameof(CausalLanguageModel))
    {
        options.Validate();
        Options = options;
        IsMadeOfOptions = customise is null;
        embedding = new TokenEmbedding(options.VocabSize, options.HiddenSize, InitialDeviation);
        dropout = options.DropoutRate > 0 ? Dropout(options.DropoutRate) : null;
        backbone = BuildBackbone(options, customise, place);
        head = options.TieEmbeddings ? null : ModuleParameter.Linear(options.HiddenSize, options.VocabSize, hasBias: false);
        place(embedding);
        if (head is not null)
        {
            place(head);
        }

        RegisterComponents();
    }

    /// <summary>The options that the model was made from.</summary>
    public LanguageModelOptions Options { get; private set; }

    /// <summary>True where the options say all of the model, so that a model made from them has its layers.</summary>
    internal bool IsMadeOfOptions { get; }

    /// <summary>
    /// Turns text into ids and back. By default that of the folder or the checkpoint that the model was loaded from, see
    /// <see cref="TokenizerProblem"/>; bytes where it was made here for 256 ids; else null.
    /// </summary>
    public ITokenizer? Tokenizer { get; set; }

    /// <summary>The stack of layers.</summary>
    public HybridBackbone Backbone => backbone;

    /// <summary>The routers of the model, first layer first.</summary>
    public IReadOnlyList<HybridAttention> Routers => [.. backbone.Blocks.Select(block => block.Mixer).OfType<HybridAttention>()];

    /// <summary>The device of the weights.</summary>
    public Device Device => embedding.Weight.device;

    /// <summary>The dtype of the matrices; in mixed precision other weights are float32.</summary>
    public ScalarType Type => embedding.Weight.dtype;

    /// <summary>Number of parameters; a tied head counts once.</summary>
    /// <returns>The number of scalar weights.</returns>
    public long CountParameters() => parameters().Sum(parameter => parameter.numel());

    /// <summary>
    /// Converts the matrices to half precision in place, see <see cref="MixedPrecision"/>, and sets
    /// <see cref="LanguageModelOptions.Precision"/>. Make optimizers afterwards.
    /// </summary>
    /// <param name="dtype">BFloat16 (default), or Float16 on a GPU.</param>
    /// <returns>This model.</returns>
    /// <exception cref="ArgumentException"><paramref name="dtype"/> is not one of these, or a weight is float64.</exception>
    public CausalLanguageModel ToMixedPrecision(ScalarType dtype = ScalarType.BFloat16)
    {
        MixedPrecision.ToMixedPrecision(this, dtype);
        Options = Options with { Precision = dtype };
        return this;
    }

    /// <summary>Creates the state of sequences that have seen no token yet.</summary>
    /// <param name="batchSize">Number of sequences B; at least 1.</param>
    /// <returns>The state; the caller disposes it.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="batchSize"/> is below 1.</exception>
    public CompositeState CreateState(long batchSize) => backbone.CreateState(batchSize);

    /// <summary>Logits of every position, without carrying state.</summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <returns>Logits [B, T, V].</returns>
    /// <exception cref="ArgumentException">The ids are not int64 [B, T], or are more than the longest sequence has.</exception>
    public override Tensor forward(Tensor input) => forward(input, MixerContext.None);

    /// <summary>Logits of every position.</summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <param name="context">State, padding, packed rows.</param>
    /// <returns>Logits [B, T, V]; those at padding mean nothing.</returns>
    /// <exception cref="ArgumentException">The ids, the state or the context does not fit, or a sequence would be longer than the longest.</exception>
    /// <exception cref="NotSupportedException">A layer cannot honour something in the context.</exception>
    public Tensor forward(Tensor input, MixerContext context)
    {
        using var scope = NewDisposeScope();
        return Head(Hidden(input, context)).MoveToOuterDisposeScope();
    }

    /// <summary>Logits of the last token of each row alone, which is what decoding needs: B times V numbers in the place of B times T times V.</summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <param name="context">State, padding, packed rows.</param>
    /// <returns>Logits [B, V].</returns>
    /// <exception cref="ArgumentException">The ids, the state or the context does not fit, or a sequence would be longer than the longest.</exception>
    /// <exception cref="NotSupportedException">A layer cannot honour something in the context.</exception>
    public Tensor NextTokenLogits(Tensor input, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var hidden = Hidden(input, WithBuffers(input, context));
        return Head(LastOfEachRow(hidden, context)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Mean cross-entropy, in nats a token; in training mode with the <see cref="MixerContext.AuxiliaryLosses"/> of all layers, such as the
    /// mean of the experts' load-balance losses times <see cref="MixtureOfExpertsOptions.RouterAuxLossCoefficient"/>.
    /// </summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <param name="targets">The ids to predict at each position, int64 [B, T]; -100 is left out.</param>
    /// <returns>A scalar.</returns>
    /// <exception cref="ArgumentException">The ids are not int64 [B, T], or are more than the longest sequence has, or the targets have another shape.</exception>
    public Tensor Loss(Tensor input, Tensor targets)
    {
        if (!input.shape.AsSpan().SequenceEqual(targets.shape))
        {
            throw new ArgumentException(
                $"CausalLanguageModel: targets must be [{string.Join(", ", input.shape)}], like the ids; got [{string.Join(", ", targets.shape)}].",
                nameof(targets));
        }

        using var scope = NewDisposeScope();
        var auxiliary = new List<Tensor>();
        try
        {
            var logits = Head(Hidden(input, new MixerContext { AuxiliaryLosses = training ? auxiliary : null })).view(-1, Options.VocabSize);
            var loss = functional.cross_entropy(logits.to_type(StatePrecision.Of(logits.dtype)), targets.reshape(-1));
            return auxiliary.Aggregate(loss, (sum, part) => sum + part).MoveToOuterDisposeScope();
        }
        finally
        {
            auxiliary.ForEach(part => part.Dispose());
        }
    }

    /// <summary>What stands in the residual stream, layer by layer.</summary>
    /// <param name="input">Token ids, int64 [B, T].</param>
    /// <param name="context">State, padding, packed rows; null means none.</param>
    /// <returns>
    /// What enters the first layer, the stream after each layer, and the last of these after the final norm: <see cref="HybridBackbone.Blocks"/>
    /// and two tensors [B, T, D], in the caller's dispose scope.
    /// </returns>
    public IReadOnlyList<Tensor> HiddenStates(Tensor input, MixerContext? context = null)
    {
        using var scope = NewDisposeScope();
        context ??= MixerContext.None;
        var streams = new List<Tensor>();
        var embedded = Embed(input, context);
        var final = backbone.forward(embedded, context, streams);
        return [.. streams.Prepend(embedded).Append(final).Select(stream => stream.MoveToOuterDisposeScope())];
    }

    /// <summary>The context with buffers for the layers, where the call decodes one token a row: what they write into is theirs until the next call.</summary>
    private static MixerContext WithBuffers(Tensor ids, MixerContext context) =>
        context is { State: CompositeState state, Lengths: null } && !is_grad_enabled() && ids.Dimensions == 2 && ids.size(1) == 1
            ? context with { Buffers = state.BeginStep() }
            : context;

    private Tensor Hidden(Tensor ids, MixerContext context) => backbone.forward(Embed(ids, context), context);

    private Tensor Embed(Tensor ids, MixerContext context)
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

        var embedded = context.Buffers is { } buffers && EmbeddingStep.Apply(embedding.Weight, ids, buffers) is { } rows ? rows : embedding.call(ids);
        embedded = Options.EmbeddingMultiplier == 1 ? embedded : embedded * Options.EmbeddingMultiplier;
        return dropout?.call(embedded) ?? embedded;
    }

    /// <summary>The last token of each row: [B, T, D] to [B, D].</summary>
    private static Tensor LastOfEachRow(Tensor hidden, MixerContext context)
    {
        var time = hidden.size(1);
        if (context.Lengths is not { } lengths || context.PaddingSide == PaddingSide.Left)
        {
            return hidden.select(1, time - 1);
        }

        var places = tensor([.. lengths.Select((length, row) => (row * time) + length - 1)], dtype: ScalarType.Int64, device: hidden.device);
        return hidden.reshape(-1, hidden.size(2)).index_select(0, places);
    }

    private Tensor Head(Tensor hidden)
    {
        var logits = head is null ? LinearStep.Linear(hidden, embedding.Weight) : LinearStep.Apply(head, hidden);
        logits = Options.LogitsMultiplier == 1 ? logits : logits * Options.LogitsMultiplier;
        return Options.LogitsSoftCap is { } cap ? (logits / cap).tanh() * cap : logits;
    }

    private static HybridBackbone BuildBackbone(LanguageModelOptions options, Action<BackboneBuilder>? customise, Action<Module> place)
    {
        var pattern = options.ResolvePattern();
        var builder = new BackboneBuilder(options.HiddenSize).WithPattern(pattern).WithExperts(options.MixtureOfExperts).WithStateBridges(options.StateBridge).WithBlocks(new BlockOptions
        {
            Norm = options.Norm,
            NormEps = options.NormEps,
            ResidualMultiplier = options.ResidualMultiplier,
            DropoutRate = options.DropoutRate,
            PreNorm = options.PreNorm,
            FeedForward = options.FeedForward,
            UseGradientCheckpointing = options.UseGradientCheckpointing,
        });
        builder.WithPositions(options.PositionEncoding).WithMaxLength(options.MaxSeqLen);
        builder.WithInputNorm(options.NormEmbedding).WithFinalNormEps(options.FinalNormEps).WithRescaling(options.RescaleEvery).WithPlacement(place);
        customise?.Invoke(builder);
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
            case ("falcon_h1", FalconH1Options falcon):
                return falcon with { AttentionConfig = falcon.AttentionConfig with { MaxLength = falcon.AttentionConfig.MaxLength ?? maxLength } };
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
