using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Mixers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Zamba2: Mamba-2 layers, some of them preceded by one of a few transformer blocks that are shared in turn.</summary>
internal sealed class Zamba2Architecture : HubArchitecture
{
    private const string Hybrid = "zamba2";

    // The gated norm of the reference has an epsilon of its own.
    private const double GatedNormEps = 1e-5;

    private static readonly Dictionary<string, string> Words = new() { ["mamba"] = "mamba2", ["hybrid"] = Hybrid };

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["zamba2"] = "Zamba2ForCausalLM" };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var layers = HubFields.LayersOf(config, "layers_block_type", Words) ?? throw config.Malformed("layers_block_type", "a list of mamba and hybrid");
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: true);
        var eps = config.Number("rms_norm_eps", 1e-5);
        var blocks = config.Count("num_mem_blocks", 1);
        config.Require("num_hidden_layers", $"{layers.Count}");
        config.Require("hidden_act", "gelu");
        config.Require("add_bias_linear", "false");
        config.Require("use_long_context", "false");
        config.Require("attention_hidden_size", $"{2 * sizes.HiddenSize}");
        config.Ignore("hybrid_layer_ids", "kv_channels", "num_query_groups");
        var options = new Zamba2Options
        {
            MambaConfig = Mamba2(config, sizes.HiddenSize),
            AttentionConfig = Attention(config, sizes),
            IntermediateSize = config.Count("intermediate_size"),
            AdapterRank = config.Count("adapter_rank", 128),
            UseAttentionAdapters = config.Flag("use_shared_attention_adapter", false),
            NormEps = eps,
        };
        return new HubModel(
            sizes with { NormEps = eps, Mixers = HubFields.Mixers(layers, ("mamba2", options.MambaConfig)) },
            layers.Contains(Hybrid) ? builder => builder.WithFactory(Hybrid, Sharing(options, blocks)) : null);
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        map.Rename("embedding", "model.embed_tokens");
        map.Rename("backbone.norm_f", "model.final_layernorm");
        map.Rename("lm_head", "lm_head");
        var owners = map.Layers("model.layers").Where(layer => layer.Block.Mixer is Zamba2Mixer { OwnsBlock: true })
            .ToDictionary(layer => ((Zamba2Mixer)layer.Block.Mixer!).SharedBlock, layer => layer.Hub);
        var place = 0;
        foreach (var (own, hub, block) in map.Layers("model.layers"))
        {
            if (block.Mixer is Zamba2Mixer mixer)
            {
                MapHybrid(map, $"{own}.mixer", hub, $"{owners[mixer.SharedBlock]}.shared_transformer", place++);
            }
            else
            {
                map.Rename($"{own}.norm", $"{hub}.input_layernorm");
                map.Rename($"{own}.mixer", $"{hub}.mamba");
            }
        }
    }

    private static void MapHybrid(WeightMap map, string own, string hub, string shared, int place)
    {
        map.Rename($"{own}.linear", $"{hub}.linear");
        map.Rename($"{own}.norm", $"{hub}.mamba_decoder.input_layernorm");
        map.Rename($"{own}.mamba", $"{hub}.mamba_decoder.mamba");
        foreach (var letter in new[] { "q", "k", "v" })
        {
            map.Rename($"{own}.{letter}_adapter.down", $"{shared}.self_attn.linear_{letter}_adapter_list.{place}.0");
            map.Rename($"{own}.{letter}_adapter.up", $"{shared}.self_attn.linear_{letter}_adapter_list.{place}.1");
        }

        map.Rename($"{own}.gate_up_adapter.down", $"{shared}.feed_forward.gate_up_proj_adapter_list.{place}.0");
        map.Rename($"{own}.gate_up_adapter.up", $"{shared}.feed_forward.gate_up_proj_adapter_list.{place}.1");
        map.Rename($"{own}.shared.input_norm", $"{shared}.input_layernorm");
        map.Rename($"{own}.shared.ffn_norm", $"{shared}.pre_ff_layernorm");
        map.Rename($"{own}.shared.gate_up_proj", $"{shared}.feed_forward.gate_up_proj");
        map.Rename($"{own}.shared.down_proj", $"{shared}.feed_forward.down_proj");
        map.Rename($"{own}.shared", $"{shared}.self_attn");
    }

    /// <summary>Makes the hybrid layers in order: the first of each block makes it, every later one takes it in turn.</summary>
    private static Func<long, SequenceMixer> Sharing(Zamba2Options options, long blocks)
    {
        var made = new List<Zamba2Mixer>();
        return width =>
        {
            var mixer = new Zamba2Mixer(width, options, made.Count < blocks ? null : made[(int)(made.Count % blocks)]);
            made.Add(mixer);
            return mixer;
        };
    }

    private static AttentionOptions Attention(HubConfig config, LanguageModelOptions sizes)
    {
        var heads = config.Count("num_attention_heads");
        var headDim = config.Integer("attention_head_dim", 2 * sizes.HiddenSize / heads);
        var attention = HubFields.WithRotary(HubFields.Attention(config), config);
        return attention with
        {
            HeadDim = headDim,
            Scale = 1 / Math.Sqrt(headDim / 2.0),
            UseRope = config.Flag("use_mem_rope", false),
            MaxLength = sizes.MaxSeqLen,
        };
    }

    private static Mamba2Options Mamba2(HubConfig config, long width)
    {
        var inner = config.Count("mamba_expand", 2) * width;
        var heads = config.Count("n_mamba_heads", 8);
        config.Require("mamba_headdim", $"{inner / heads}");
        config.Ignore("chunk_size");
        var groups = config.Integer("mamba_ngroups", 1);
        var (min, max) = HubFields.StepLimit(config);
        return new Mamba2Options
        {
            DState = config.Integer("mamba_d_state", 64),
            DConv = config.Integer("mamba_d_conv", 4),
            InnerSize = inner,
            HeadDim = inner / heads,
            NGroups = groups,
            NormGroups = groups,
            NormEps = GatedNormEps,
            DtLimitMin = min,
            DtLimitMax = max,
            UseConvBias = config.Flag("use_conv_bias", true),
        };
    }
}
