using Hybrid.Attention;
using Hybrid.Layers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Granite 4: Mamba-2 and attention, experts beside a shared feed-forward layer or that layer alone, fixed multipliers.</summary>
internal sealed class GraniteMoeHybridArchitecture : HubArchitecture
{
    private static readonly Dictionary<string, string> Words = new() { ["mamba"] = "mamba2", ["attention"] = "attention" };

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } =
        new Dictionary<string, string> { ["granitemoehybrid"] = "GraniteMoeHybridForCausalLM" };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var count = HubFields.Repeat(config, "mamba2");
        var layers = HubFields.LayersOf(config, config.Spelling("layer_types", "layers_block_type"), Words) ?? count;
        config.Require("num_hidden_layers", $"{layers.Count}");
        config.Require("hidden_act", "silu");
        config.Require("normalization_function", "rmsnorm");
        config.Require("position_embedding_type", "rope", "nope");
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: false);
        var mamba = BambaArchitecture.Mamba2(config, sizes.HiddenSize);
        var biases = config.Flag("attention_bias", false);
        var attention = HubFields.WithRotary(HubFields.Attention(config), config) with
        {
            UseRope = config.Text("position_embedding_type", "nope") == "rope",
            Scale = config.Number("attention_multiplier", 1),
            UseBias = biases,
            UseOutputBias = biases,
        };
        var options = sizes with
        {
            NormEps = mamba.NormEps,
            EmbeddingMultiplier = config.Number("embedding_multiplier", 1),
            ResidualMultiplier = config.Number("residual_multiplier", 1),
            LogitsMultiplier = 1 / config.Number("logits_scaling", 1),
            Mixers = HubFields.Mixers(layers, ("mamba2", mamba), ("attention", attention)),
        };
        var shared = new FeedForwardOptions { IntermediateSize = config.Integer("shared_intermediate_size", 1024) };
        var experts = new MixtureOfExpertsOptions
        {
            NumExperts = config.Integer("num_local_experts", 8),
            TopK = (int)config.Integer("num_experts_per_tok", 2),
            IntermediateSize = config.Integer("intermediate_size"),
            Weighting = ExpertWeighting.TopkThenSoftmax,
            SharedExpertIntermediateSize = shared.IntermediateSize,
            UseSharedExpertGate = false,
            RouterAuxLossCoefficient = HubFields.BalanceShare(config),
        };
        return new HubModel(HubFields.WithFeedForward(options, shared, experts.NumExperts > 0 ? experts : null));
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
            map.Rename($"{own}.mixer", block.Mixer is MultiHeadAttention ? $"{hub}.self_attn" : $"{hub}.mamba");
            map.Rename($"{own}.ffn_norm", $"{hub}.post_attention_layernorm");
            map.Rename($"{own}.ffn.router", $"{hub}.block_sparse_moe.router.layer");
            map.Rename($"{own}.ffn.experts.gate_up_proj", $"{hub}.block_sparse_moe.input_linear.weight");
            map.Rename($"{own}.ffn.experts.down_proj", $"{hub}.block_sparse_moe.output_linear.weight");
            var shared = block.Experts is null ? $"{own}.ffn" : $"{own}.ffn.shared_expert";
            map.Join($"{hub}.shared_mlp.input_linear.weight", $"{shared}.gate_proj.weight", $"{shared}.up_proj.weight");
            map.Rename($"{shared}.down_proj", $"{hub}.shared_mlp.output_linear");
        }
    }
}
