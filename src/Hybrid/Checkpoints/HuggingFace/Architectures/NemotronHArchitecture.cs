using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Mixers;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Nemotron-H: one of Mamba-2, attention without positions, a feed-forward layer or experts in each layer.</summary>
internal sealed class NemotronHArchitecture : HubArchitecture
{
    private static readonly Dictionary<string, string> Words = new()
    {
        ["mamba"] = "mamba2", ["attention"] = "attention", ["mlp"] = LayerPattern.MlpName, ["moe"] = LayerPattern.ExpertsName,
    };

    private static readonly Dictionary<char, string> Symbols = new()
    {
        ['M'] = "mamba2", ['*'] = "attention", ['-'] = LayerPattern.MlpName, ['E'] = LayerPattern.ExpertsName,
    };

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["nemotron_h"] = "NemotronHForCausalLM" };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var layers = HubFields.LayersOf(config, "layers_block_type", Words) ?? LayersOfPattern(config);
        config.Ignore("hybrid_override_pattern", "mtp_layers_block_type");
        config.Require("num_hidden_layers", $"{layers.Count}");
        config.Require("num_nextn_predict_layers", "0");
        config.Require("sliding_window");
        config.Require("mamba_hidden_act", "silu");
        config.Require("mlp_hidden_act", "relu2");
        var mamba = Mamba2(config);
        var biases = config.Flag("attention_bias", false);
        var attention = HubFields.Attention(config) with { UseBias = biases, UseOutputBias = biases };
        var dense = new FeedForwardOptions
        {
            Kind = FeedForwardKind.SquaredRelu,
            IntermediateSize = config.Integer("intermediate_size"),
            UseBias = config.Flag("mlp_bias", false),
        };
        return new HubModel(HubFields.Sizes(config, layers, tiedByDefault: false) with
        {
            NormEps = mamba.NormEps,
            DropoutRate = config.Number("hidden_dropout", 0),
            FeedForward = layers.Contains(LayerPattern.MlpName) ? dense : null,
            MixtureOfExperts = Experts(config, layers.Contains(LayerPattern.ExpertsName)),
            Mixers = HubFields.Mixers(layers, ("mamba2", mamba), ("attention", attention)),
        });
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        HubFields.MapAroundLayers(map);
        foreach (var (own, hub, _) in map.Layers("backbone.layers"))
        {
            map.Rename($"{own}.norm", $"{hub}.norm");
            map.Rename($"{own}.ffn_norm", $"{hub}.norm");
            map.Rename($"{own}.mixer", $"{hub}.mixer");
            map.Rename($"{own}.ffn.router", $"{hub}.mixer.gate");
            map.Rename($"{own}.ffn.e_score_correction_bias", $"{hub}.mixer.gate.e_score_correction_bias");
            map.Unstack($"{own}.ffn.experts.up_proj", $"{hub}.mixer.experts.{{0}}.up_proj.weight");
            map.Unstack($"{own}.ffn.experts.down_proj", $"{hub}.mixer.experts.{{0}}.down_proj.weight");
            map.Rename($"{own}.ffn.shared_expert", $"{hub}.mixer.shared_experts");
            map.Rename($"{own}.ffn", $"{hub}.mixer");
        }
    }

    private static string[] LayersOfPattern(HubConfig config)
    {
        const string field = "hybrid_override_pattern";
        return
        [
            .. config.Text(field).Select(symbol =>
                Symbols.GetValueOrDefault(symbol) ?? throw config.Unsupported(field, $"layers of {string.Join(' ', Symbols.Keys)}")),
        ];
    }

    private static Mamba2Options Mamba2(HubConfig config)
    {
        var (heads, headDim) = (config.Count("mamba_num_heads", 128), config.Count("mamba_head_dim", 64));
        var biases = config.Flag("use_bias", false);
        config.Require("mamba_proj_bias", biases ? "true" : "false");
        config.Ignore("chunk_size", "mamba_chunk_size", "expand", "mamba_expand", "rms_norm_eps");
        var (min, max) = HubFields.StepLimit(config);
        var groups = config.Integer(config.Spelling("n_groups", "mamba_n_groups"), 8);
        return new Mamba2Options
        {
            DState = config.Integer(config.Spelling("ssm_state_size", "mamba_state_dim"), 128),
            DConv = config.Integer(config.Spelling("conv_kernel", "mamba_d_conv"), 4),
            InnerSize = heads * headDim,
            HeadDim = headDim,
            NGroups = groups,
            NormGroups = groups,
            DtLimitMin = min,
            DtLimitMax = max,
            UseBias = biases,
            UseConvBias = config.Flag("use_conv_bias", true),
            NormEps = config.Number("layer_norm_epsilon", 1e-5),
        };
    }

    private static MixtureOfExpertsOptions? Experts(HubConfig config, bool hasExperts)
    {
        string[] fields =
        [
            "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_group", "topk_group", "routed_scaling_factor", "n_shared_experts",
            "moe_shared_expert_intermediate_size", "norm_topk_prob", "moe_latent_size", "moe_shared_expert_overlap",
        ];
        config.Ignore(fields);
        if (!hasExperts)
        {
            return null;
        }

        config.Require("norm_topk_prob", "true");
        config.Require("n_shared_experts", "1");
        config.Require("moe_latent_size");
        config.Require("mlp_bias", "false");
        return new MixtureOfExpertsOptions
        {
            NumExperts = config.Integer("n_routed_experts"),
            TopK = config.Count("num_experts_per_tok"),
            IntermediateSize = config.Integer("moe_intermediate_size"),
            ExpertKind = FeedForwardKind.SquaredRelu,
            Weighting = ExpertWeighting.SigmoidTopkRenormalised,
            NumGroups = config.Count("n_group", 1),
            TopGroups = config.Count("topk_group", 1),
            RoutedScale = config.Number("routed_scaling_factor", 1),
            SharedExpertIntermediateSize = config.Integer("moe_shared_expert_intermediate_size"),
            UseSharedExpertGate = false,
            RouterAuxLossCoefficient = 0,
        };
    }
}
