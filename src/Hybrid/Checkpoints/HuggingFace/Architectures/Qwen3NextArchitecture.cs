using Hybrid.Attention;
using Hybrid.Layers;
using Hybrid.Mixers;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Qwen3-Next: gated delta nets and gated attention, experts with a gated shared expert.</summary>
internal sealed class Qwen3NextArchitecture : HubArchitecture
{
    private static readonly Dictionary<string, string> Words = new() { ["linear_attention"] = "gated_delta_net", ["full_attention"] = "attention" };

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["qwen3_next"] = "Qwen3NextForCausalLM" };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var count = HubFields.Repeat(config, "attention").Count;
        var interval = config.Count("full_attention_interval", 4);
        var layers = HubFields.LayersOf(config, "layer_types", Words)
            ?? [.. Enumerable.Range(1, count).Select(i => i % interval == 0 ? "attention" : "gated_delta_net")];
        config.Require("num_hidden_layers", $"{layers.Count}");
        config.Require("hidden_act", "silu");
        config.Require("use_sliding_window", "false");
        config.Ignore("sliding_window", "max_window_layers");
        var eps = config.Number("rms_norm_eps", 1e-6);
        var biases = config.Flag("attention_bias", false);
        var attention = HubFields.WithRotary(HubFields.Attention(config), config, share: 0.25) with
        {
            QkRmsNorm = true,
            QkRmsNormEps = eps,
            UseOutputGate = true,
            UseBias = biases,
            UseOutputBias = biases,
        };
        var delta = new GatedDeltaNetOptions
        {
            NumKeyHeads = config.Integer("linear_num_key_heads", 16),
            NumValueHeads = config.Integer("linear_num_value_heads", 32),
            KeyHeadDim = config.Integer("linear_key_head_dim", 128),
            ValueHeadDim = config.Integer("linear_value_head_dim", 128),
            DConv = config.Integer("linear_conv_kernel_dim", 4),
            NormEps = eps,
        };
        var options = HubFields.Sizes(config, layers, tiedByDefault: false) with
        {
            Norm = NormKind.ZeroCentredRms,
            NormEps = eps,
            Mixers = HubFields.Mixers(layers, ("gated_delta_net", delta), ("attention", attention)),
        };
        var dense = new FeedForwardOptions { IntermediateSize = config.Integer("intermediate_size", 5632) };
        return new HubModel(HubFields.WithFeedForward(options, dense, Experts(config)));
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        map.Rename("embedding", "model.embed_tokens");
        map.Rename("backbone.norm_f", "model.norm");
        map.Rename("lm_head", "lm_head");
        foreach (var (own, hub, block) in map.Layers("model.layers"))
        {
            map.Rename($"{own}.norm", $"{hub}.input_layernorm");
            map.Rename($"{own}.mixer", block.Mixer is MultiHeadAttention ? $"{hub}.self_attn" : $"{hub}.linear_attn");
            map.Rename($"{own}.ffn_norm", $"{hub}.post_attention_layernorm");
            map.Rename($"{own}.ffn.router", $"{hub}.mlp.gate");
            map.Unstack($"{own}.ffn.experts.gate_up_proj", $"{hub}.mlp.experts.{{0}}.gate_proj.weight", $"{hub}.mlp.experts.{{0}}.up_proj.weight");
            map.Unstack($"{own}.ffn.experts.down_proj", $"{hub}.mlp.experts.{{0}}.down_proj.weight");
            map.Rename($"{own}.ffn", $"{hub}.mlp");
        }
    }

    private static MixtureOfExpertsOptions? Experts(HubConfig config)
    {
        var step = config.Count("decoder_sparse_step", 1);
        var experts = config.Integer("num_experts", 512);
        var options = new MixtureOfExpertsOptions
        {
            NumExperts = Math.Max(experts, 1),
            TopK = config.Count("num_experts_per_tok", 10),
            IntermediateSize = config.Integer("moe_intermediate_size", 512),
            Weighting = config.Flag("norm_topk_prob", true) ? ExpertWeighting.SoftmaxTopkRenormalised : ExpertWeighting.SoftmaxThenTopk,
            SharedExpertIntermediateSize = config.Integer("shared_expert_intermediate_size", 512),
            ExpertEvery = step,
            ExpertOffset = step - 1,
            DenseLayers = [.. (config.Integers("mlp_only_layers") ?? []).Select(layer => (int)layer)],
            RouterAuxLossCoefficient = HubFields.BalanceShare(config),
        };
        return experts > 0 ? options : null;
    }
}
