using System.Text.Json.Nodes;
using Hybrid.Attention;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Bamba: Mamba-2, attention whose heads turn by half, SwiGLU.</summary>
internal sealed class BambaArchitecture : HubArchitecture
{
    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["bamba"] = "BambaForCausalLM" };

    /// <inheritdoc/>
    public override bool CanExport => true;

    /// <summary>The Mamba-2 layer in the fields that Bamba and Granite share.</summary>
    public static Mamba2Options Mamba2(HubConfig config, long width)
    {
        var inner = config.Count("mamba_expand", 2) * width;
        var heads = config.Count("mamba_n_heads", 128);
        var headDim = config.IsText("mamba_d_head") ? inner / heads : config.Integer("mamba_d_head", inner / heads);
        if (heads * headDim != inner)
        {
            throw config.Malformed("mamba_n_heads", $"{inner} channels, mamba_expand times hidden_size, over mamba_d_head");
        }

        config.Ignore("mamba_chunk_size");
        var (min, max) = HubFields.StepLimit(config);
        return new Mamba2Options
        {
            DState = config.Integer("mamba_d_state", 256),
            DConv = config.Integer("mamba_d_conv", 4),
            InnerSize = inner,
            HeadDim = headDim,
            NGroups = config.Integer("mamba_n_groups", 1),
            DtLimitMin = min,
            DtLimitMax = max,
            UseBias = config.Flag("mamba_proj_bias", false),
            UseConvBias = config.Flag("mamba_conv_bias", true),
            NormEps = config.Number("rms_norm_eps", 1e-5),
        };
    }

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var count = HubFields.Repeat(config, "mamba2").Count;
        var attentionLayers = config.Integers("attn_layer_indices") ?? [];
        string[] layers = [.. Enumerable.Range(0, count).Select(i => attentionLayers.Contains(i) ? "attention" : "mamba2")];
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: false);
        var mamba = Mamba2(config, sizes.HiddenSize);
        var biases = config.Flag("attention_bias", false);
        config.Require("hidden_act", "silu");
        var attention = HubFields.Attention(config) with { UseBias = biases, UseOutputBias = biases };
        var share = config.OptionalInteger("attn_rotary_emb") is { } channels
            ? channels / (double)(attention.HeadDim ?? (sizes.HiddenSize / attention.NumHeads))
            : 0.5;
        return new HubModel(sizes with
        {
            NormEps = mamba.NormEps,
            FeedForward = new FeedForwardOptions
            {
                IntermediateSize = config.Integer("intermediate_size"),
                UseBias = config.Flag("mlp_bias", false),
            },
            Mixers = HubFields.Mixers(layers, ("mamba2", mamba), ("attention", HubFields.WithRotary(attention, config, share))),
        });
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        map.Rename("embedding", "model.embed_tokens");
        map.Rename("backbone.norm_f", "model.final_layernorm");
        map.Rename("lm_head", "lm_head");
        foreach (var (own, hub, block) in map.Layers("model.layers"))
        {
            map.Rename($"{own}.norm", $"{hub}.input_layernorm");
            map.Rename($"{own}.mixer", block.Mixer is MultiHeadAttention ? $"{hub}.self_attn" : $"{hub}.mamba");
            map.Rename($"{own}.ffn_norm", $"{hub}.pre_ff_layernorm");
            map.Rename($"{own}.ffn", $"{hub}.feed_forward");
        }
    }

    /// <inheritdoc/>
    public override JsonObject Export(LanguageModelOptions options)
    {
        var mamba = options.Mixers.GetValueOrDefault("mamba2") as Mamba2Options ?? new();
        var attention = options.Mixers.GetValueOrDefault("attention") as AttentionOptions ?? new();
        var dense = options.FeedForward ?? new();
        var inner = mamba.ResolveInnerSize(options.HiddenSize);
        var names = options.ResolvePattern().Mixers;
        var config = new JsonObject
        {
            ["vocab_size"] = options.VocabSize,
            ["hidden_size"] = options.HiddenSize,
            ["num_hidden_layers"] = options.NumLayers,
            ["max_position_embeddings"] = options.MaxSeqLen,
            ["tie_word_embeddings"] = options.TieEmbeddings,
            ["rms_norm_eps"] = options.NormEps,
            ["intermediate_size"] = dense.ResolveIntermediateSize(options.HiddenSize),
            ["mlp_bias"] = dense.UseBias ?? false,
            ["attn_layer_indices"] = new JsonArray(
                [.. Enumerable.Range(0, names.Count).Where(i => names[i] == "attention").Select(i => (JsonNode)i)]),
            ["num_attention_heads"] = attention.NumHeads,
            ["num_key_value_heads"] = attention.NumKeyValueHeads ?? attention.NumHeads,
            ["attention_bias"] = attention.UseBias,
            ["attention_dropout"] = attention.DropoutRate,
            ["rope_theta"] = attention.RopeTheta,
            ["rope_parameters"] = new JsonObject
            {
                ["rope_type"] = "default", ["rope_theta"] = attention.RopeTheta, ["partial_rotary_factor"] = attention.PartialRotaryFactor,
            },
            ["partial_rotary_factor"] = attention.PartialRotaryFactor,
            ["attn_rotary_emb"] = attention.RotaryWidth(options.HiddenSize),
            ["mamba_d_state"] = mamba.DState,
            ["mamba_d_conv"] = mamba.DConv,
            ["mamba_expand"] = HubExport.Ratio(inner, options.HiddenSize),
            ["mamba_d_head"] = mamba.HeadDim,
            ["mamba_n_heads"] = inner / mamba.HeadDim,
            ["mamba_n_groups"] = mamba.NGroups,
            ["mamba_chunk_size"] = mamba.ChunkSize,
            ["mamba_proj_bias"] = mamba.UseBias,
            ["mamba_conv_bias"] = mamba.UseConvBias,
            ["hidden_act"] = "silu",
        };
        HubExport.AddStepLimit(config, mamba);
        return config;
    }
}
