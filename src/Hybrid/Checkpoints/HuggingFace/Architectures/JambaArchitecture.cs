using System.Text.Json.Nodes;
using Hybrid.Attention;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Jamba: Mamba with inner norms, attention without positions, a feed-forward layer or experts in every layer.</summary>
internal sealed class JambaArchitecture : HubArchitecture
{
    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["jamba"] = "JambaForCausalLM" };

    /// <inheritdoc/>
    public override bool CanExport => true;

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var count = HubFields.Repeat(config, "mamba").Count;
        var (period, offset) = (config.Count("attn_layer_period", 8), config.Integer("attn_layer_offset", 4));
        string[] layers = [.. Enumerable.Range(0, count).Select(i => i % period == offset ? "attention" : "mamba")];
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: false);
        var eps = config.Number("rms_norm_eps", 1e-6);
        config.Require("hidden_act", "silu");
        config.Require("mamba_inner_layernorms", "true");
        config.Require("sliding_window");
        config.Ignore("calc_logits_for_entire_prompt");
        var mamba = new MambaOptions
        {
            DState = config.Integer("mamba_d_state", 16),
            DConv = config.Integer("mamba_d_conv", 4),
            InnerSize = config.Count("mamba_expand", 2) * sizes.HiddenSize,
            DtRank = config.IsText("mamba_dt_rank") ? null : config.OptionalInteger("mamba_dt_rank"),
            UseBias = config.Flag("mamba_proj_bias", false),
            UseConvBias = config.Flag("mamba_conv_bias", true),
            UseInnerNorms = true,
            InnerNormEps = eps,
        };
        var options = sizes with
        {
            NormEps = eps,
            Mixers = HubFields.Mixers(layers, ("mamba", mamba), ("attention", HubFields.Attention(config))),
        };
        var dense = new FeedForwardOptions { IntermediateSize = config.Integer("intermediate_size") };
        var experts = new MixtureOfExpertsOptions
        {
            NumExperts = config.Integer("num_experts", 16),
            TopK = config.Count("num_experts_per_tok", 2),
            IntermediateSize = dense.IntermediateSize,
            ExpertEvery = config.Count("expert_layer_period", 2),
            ExpertOffset = (int)config.Integer("expert_layer_offset", 1),
            RouterAuxLossCoefficient = HubFields.BalanceShare(config),
        };
        return new HubModel(HubFields.WithFeedForward(options, dense, experts.NumExperts > 1 ? experts : null));
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
            map.Unstack(
                $"{own}.ffn.experts.gate_up_proj", $"{hub}.feed_forward.experts.{{0}}.gate_proj.weight", $"{hub}.feed_forward.experts.{{0}}.up_proj.weight");
            map.Unstack($"{own}.ffn.experts.down_proj", $"{hub}.feed_forward.experts.{{0}}.down_proj.weight");
            map.Rename($"{own}.ffn", $"{hub}.feed_forward");
        }
    }

    /// <inheritdoc/>
    public override JsonObject Export(LanguageModelOptions options)
    {
        var mamba = options.Mixers.GetValueOrDefault("mamba") as MambaOptions ?? new();
        var attention = options.Mixers.GetValueOrDefault("attention") as AttentionOptions ?? new();
        var (period, offset) = HubExport.Period(options, "attention");
        var inner = mamba.ResolveInnerSize(options.HiddenSize);
        var config = new JsonObject
        {
            ["vocab_size"] = options.VocabSize,
            ["hidden_size"] = options.HiddenSize,
            ["num_hidden_layers"] = options.NumLayers,
            ["max_position_embeddings"] = options.MaxSeqLen,
            ["tie_word_embeddings"] = options.TieEmbeddings,
            ["rms_norm_eps"] = options.NormEps,
            ["attn_layer_period"] = period,
            ["attn_layer_offset"] = offset,
            ["num_attention_heads"] = attention.NumHeads,
            ["num_key_value_heads"] = attention.NumKeyValueHeads ?? attention.NumHeads,
            ["attention_dropout"] = attention.DropoutRate,
            ["mamba_d_state"] = mamba.DState,
            ["mamba_d_conv"] = mamba.DConv,
            ["mamba_expand"] = HubExport.Ratio(inner, options.HiddenSize),
            ["mamba_dt_rank"] = mamba.ResolveDtRank(options.HiddenSize),
            ["mamba_proj_bias"] = mamba.UseBias,
            ["mamba_conv_bias"] = mamba.UseConvBias,
            ["hidden_act"] = "silu",
            ["use_mamba_kernels"] = false,
        };
        HubExport.AddExperts(config, options);
        return config;
    }
}
