using Hybrid.Attention;
using Hybrid.Layers;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="Zamba2Mixer"/> and of its <see cref="Zamba2SharedBlock"/>.</summary>
internal sealed record Zamba2Options
{
    /// <summary>The state-space layer of a place.</summary>
    public Mamba2Options MambaConfig { get; init; } = new();

    /// <summary>Attention of the shared block, which reads 2 D channels; its head width is set.</summary>
    public AttentionOptions AttentionConfig { get; init; } = new();

    /// <summary>Inner width I of the shared block's feed-forward layer.</summary>
    public long IntermediateSize { get; init; }

    /// <summary>Rank of the adapters.</summary>
    public long AdapterRank { get; init; }

    /// <summary>Adapters of the query, key and value projections, besides those of the feed-forward layer.</summary>
    public bool UseAttentionAdapters { get; init; }

    /// <summary>Epsilon of the norms.</summary>
    public double NormEps { get; init; }
}

/// <summary>A low-rank addition to a projection: <c>up(down x)</c> (Hu et al., arXiv 2106.09685).</summary>
internal sealed class LowRankAdapter : Module<Tensor, Tensor>
{
    [ComponentName(Name = "down")]
    private readonly Linear down;

    [ComponentName(Name = "up")]
    private readonly Linear up;

    /// <param name="inputs">Input channels.</param>
    /// <param name="outputs">Output channels.</param>
    /// <param name="rank">Channels between.</param>
    public LowRankAdapter(long inputs, long outputs, long rank)
        : base(nameof(LowRankAdapter))
    {
        down = ModuleParameter.Linear(inputs, rank, hasBias: false);
        up = ModuleParameter.Linear(rank, outputs, hasBias: false);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        return up.call(down.call(input)).MoveToOuterDisposeScope();
    }
}

/// <summary>
/// A layer of Zamba2 (Glorioso et al., arXiv 2411.15242) where Mamba-2 is preceded by a transformer block that several layers share:
/// <c>mamba(norm(h + W shared([h; e])))</c> with the stack's input e. The layer has its own W, Mamba-2 and low-rank additions to the
/// block's projections. The state is a <see cref="CompositeState"/> of the attention cache and the Mamba-2 state.
/// </summary>
internal sealed class Zamba2Mixer : SequenceMixer, INormalisingMixer
{
    // A function, as a field of the module itself would register it in every layer.
    private readonly Func<Zamba2SharedBlock> blockInUse;

    // Registered in the first of the layers that share it, so that its parameters count, move and train once.
    [ComponentName(Name = "shared")]
    private readonly Zamba2SharedBlock? owned;

    [ComponentName(Name = "q_adapter")]
    private readonly LowRankAdapter? queryAdapter;

    [ComponentName(Name = "k_adapter")]
    private readonly LowRankAdapter? keyAdapter;

    [ComponentName(Name = "v_adapter")]
    private readonly LowRankAdapter? valueAdapter;

    [ComponentName(Name = "gate_up_adapter")]
    private readonly LowRankAdapter feedForwardAdapter;

    [ComponentName(Name = "linear")]
    private readonly Linear bridge;

    [ComponentName(Name = "norm")]
    private readonly RmsNorm norm;

    [ComponentName(Name = "mamba")]
    private readonly Mamba2Mixer mamba;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes of the layer and its block.</param>
    /// <param name="owner">The layer whose block this one uses too; null makes a block.</param>
    public Zamba2Mixer(long width, Zamba2Options options, Zamba2Mixer? owner = null)
        : base(nameof(Zamba2Mixer), width)
    {
        owned = owner is null ? new Zamba2SharedBlock(width, options) : null;
        var block = owner?.SharedBlock ?? owned!;
        blockInUse = () => block;
        if (options.UseAttentionAdapters)
        {
            queryAdapter = new LowRankAdapter(2 * width, block.QueryChannels, options.AdapterRank);
            keyAdapter = new LowRankAdapter(2 * width, block.KeyChannels, options.AdapterRank);
            valueAdapter = new LowRankAdapter(2 * width, block.KeyChannels, options.AdapterRank);
        }

        feedForwardAdapter = new LowRankAdapter(width, 2 * options.IntermediateSize, options.AdapterRank);
        bridge = ModuleParameter.Linear(width, width, hasBias: false);
        norm = new RmsNorm(width, options.NormEps);
        mamba = new Mamba2Mixer(width, options.MambaConfig);
        RegisterComponents();
    }

    /// <summary>The block, this layer's own or another's.</summary>
    public Zamba2SharedBlock SharedBlock => blockInUse();

    /// <summary>True where the layer has made the block.</summary>
    public bool OwnsBlock => owned is not null;

    /// <summary>Weights that write into the residual stream.</summary>
    public override IEnumerable<Parameter> ResidualOutputWeights => mamba.ResidualOutputWeights;

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        return new CompositeState(batchSize, [SharedBlock.CreateState(batchSize), mamba.CreateState(batchSize)]);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, mamba.Type);
        var state = CompositeState.Require(RequireState<CompositeState>(context.State, batch.Size), this, 2);
        state?.EnsureRoom(batch.Length, batch.Lengths);

        var inner = batch.Inner(context);
        var input = cat([batch.Input, inner.StackInput ?? batch.Input], -1);             // [B, T, 2 D]
        var mixed = SharedBlock.Attend(input, (queryAdapter, keyAdapter, valueAdapter), batch, inner, (KeyValueState?)state?.Parts[0]);
        var bridged = bridge.call(SharedBlock.FeedForward(mixed, feedForwardAdapter));   // [B, T, D]
        var y = mamba.forward(norm.call(batch.Input + bridged), inner.WithState(state?.Parts[1]));
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(y).MoveToOuterDisposeScope();
    }
}

/// <summary>
/// The transformer block that layers of Zamba2 share: attention over the norm of [h; e], whose 2 D channels it projects to D, then a gated
/// feed-forward layer, <c>down(GELU(gate x) * up x)</c>, without residuals.
/// </summary>
internal sealed class Zamba2SharedBlock : Module
{
    private readonly AttentionOptions options;
    private readonly RotaryEmbedding? rotary;
    private readonly long heads;
    private readonly long keyHeads;
    private readonly long headWidth;

    [ComponentName(Name = "input_norm")]
    private readonly RmsNorm inputNorm;

    [ComponentName(Name = "q_proj")]
    private readonly Linear queryProjection;

    [ComponentName(Name = "k_proj")]
    private readonly Linear keyProjection;

    [ComponentName(Name = "v_proj")]
    private readonly Linear valueProjection;

    [ComponentName(Name = "o_proj")]
    private readonly Linear outProjection;

    [ComponentName(Name = "ffn_norm")]
    private readonly RmsNorm feedForwardNorm;

    [ComponentName(Name = "gate_up_proj")]
    private readonly Linear gateUp;

    [ComponentName(Name = "down_proj")]
    private readonly Linear down;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes.</param>
    public Zamba2SharedBlock(long width, Zamba2Options options)
        : base(nameof(Zamba2SharedBlock))
    {
        this.options = options.AttentionConfig;
        this.options.Validate(2 * width);
        heads = this.options.NumHeads;
        keyHeads = this.options.NumKeyValueHeads ?? heads;
        headWidth = this.options.HeadDim ?? (2 * width / heads);
        inputNorm = new RmsNorm(2 * width, options.NormEps);
        queryProjection = ModuleParameter.Linear(2 * width, QueryChannels, hasBias: false);
        keyProjection = ModuleParameter.Linear(2 * width, KeyChannels, hasBias: false);
        valueProjection = ModuleParameter.Linear(2 * width, KeyChannels, hasBias: false);
        outProjection = ModuleParameter.Linear(QueryChannels, width, hasBias: false);
        rotary = this.options.UseRope
            ? new RotaryEmbedding(this.options.RotaryWidth(2 * width), this.options.RopeTheta, this.options.RopeScaling)
            : null;
        feedForwardNorm = new RmsNorm(width, options.NormEps);
        gateUp = ModuleParameter.Linear(width, 2 * options.IntermediateSize, hasBias: false);
        down = ModuleParameter.Linear(options.IntermediateSize, width, hasBias: false);
        RegisterComponents();
    }

    /// <summary>Channels of all query heads.</summary>
    public long QueryChannels => heads * headWidth;

    /// <summary>Channels of all key heads.</summary>
    public long KeyChannels => keyHeads * headWidth;

    /// <summary>The attention cache of one place.</summary>
    public KeyValueState CreateState(long batchSize) => KeyValueState.Create(
        batchSize, keyHeads, headWidth, options.MaxLength, options.WindowSize, rotary?.Settings ?? "none", keyProjection.weight.dtype, keyProjection.weight.device);

    /// <summary>Attention: [B, T, 2 D] to [B, T, D], with what the place adds to q, k and v.</summary>
    public Tensor Attend(
        Tensor input,
        (LowRankAdapter? Query, LowRankAdapter? Key, LowRankAdapter? Value) adapters,
        MixerBatch batch,
        MixerContext context,
        KeyValueState? state)
    {
        using var scope = NewDisposeScope();
        var normed = inputNorm.call(input);
        var joined = CachedAttention.Apply(
            Heads(queryProjection, adapters.Query, heads),
            Heads(keyProjection, adapters.Key, keyHeads),
            Heads(valueProjection, adapters.Value, keyHeads),
            options, rotary, batch, context, state, training);
        return outProjection.call(joined).MoveToOuterDisposeScope();

        Tensor Heads(Linear projection, LowRankAdapter? adapter, long count)
        {
            var projected = projection.call(normed);
            projected = adapter is null ? projected : projected + adapter.call(normed);
            return projected.view(batch.Size, batch.Length, count, headWidth).transpose(1, 2);
        }
    }

    /// <summary>The feed-forward layer: [B, T, D] to [B, T, D], with what the place adds to its first projection.</summary>
    public Tensor FeedForward(Tensor input, LowRankAdapter adapter)
    {
        using var scope = NewDisposeScope();
        var normed = feedForwardNorm.call(input);
        var halves = (gateUp.call(normed) + adapter.call(normed)).chunk(2, -1);
        return down.call(halves[0].gelu() * halves[1]).MoveToOuterDisposeScope();
    }
}
