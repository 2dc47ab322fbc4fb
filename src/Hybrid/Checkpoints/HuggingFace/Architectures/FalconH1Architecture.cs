using Hybrid.Layers;
using Hybrid.Mixers;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Falcon-H1: Mamba-2 and attention side by side in every layer, with fixed multipliers throughout.</summary>
internal sealed class FalconH1Architecture : HubArchitecture
{
    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["falcon_h1"] = "FalconH1ForCausalLM" };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var layers = HubFields.Repeat(config, "falcon_h1");
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: false);
        var biases = config.Flag("attention_bias", false);
        config.Require("hidden_act", "silu");
        config.Ignore("mamba_use_mlp");
        var attention = HubFields.WithRotary(HubFields.Attention(config), config) with
        {
            KeyMultiplier = config.Number("key_multiplier", 1),
            UseBias = biases,
            UseOutputBias = biases,
        };
        var falcon = new FalconH1Options
        {
            MambaConfig = Mamba2(config, sizes.HiddenSize),
            AttentionConfig = attention,
            MambaOutputMultiplier = config.Number("ssm_out_multiplier", 1),
            AttentionInputMultiplier = config.Number("attention_in_multiplier", 1),
            AttentionOutputMultiplier = config.Number("attention_out_multiplier", 1),
        };
        var factors = config.Numbers("mlp_multipliers") ?? [1, 1];
        return new HubModel(sizes with
        {
            NormEps = config.Number("rms_norm_eps", 1e-5),
            EmbeddingMultiplier = config.Number("embedding_multiplier", 1),
            LogitsMultiplier = config.Number("lm_head_multiplier", 1),
            FeedForward = new FeedForwardOptions
            {
                IntermediateSize = config.Integer("intermediate_size"),
                UseBias = config.Flag("mlp_bias", false),
                GateMultiplier = factors.Count == 2 ? factors[0] : throw config.Malformed("mlp_multipliers", "two numbers"),
                OutputMultiplier = factors[1],
            },
            Mixers = HubFields.Mixers(layers, ("falcon_h1", falcon)),
        });
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        map.Rename("embedding", "model.embed_tokens");
        map.Rename("backbone.norm_f", "model.final_layernorm");
        map.Rename("lm_head", "lm_head");
        foreach (var (own, hub, _) in map.Layers("model.layers"))
        {
            map.Rename($"{own}.norm", $"{hub}.input_layernorm");
            map.Rename($"{own}.mixer.mamba", $"{hub}.mamba");
            map.Rename($"{own}.mixer.attention", $"{hub}.self_attn");
            map.Rename($"{own}.ffn_norm", $"{hub}.pre_ff_layernorm");
            map.Rename($"{own}.ffn", $"{hub}.feed_forward");
        }
    }

    private static Mamba2Options Mamba2(HubConfig config, long width)
    {
        var inner = config.OptionalInteger("mamba_d_ssm") ?? (config.Count("mamba_expand", 2) * width);
        var heads = config.Count("mamba_n_heads", 128);
        var headDim = config.IsText("mamba_d_head") ? inner / heads : config.Integer("mamba_d_head", inner / heads);
        if (heads * headDim != inner)
        {
            throw config.Malformed("mamba_n_heads", $"{inner} channels over mamba_d_head");
        }

        config.Ignore("mamba_chunk_size", "mamba_expand");
        var (min, max) = HubFields.StepLimit(config);
        var groups = config.Integer("mamba_n_groups", 1);
        return new Mamba2Options
        {
            DState = config.Integer("mamba_d_state", 256),
            DConv = config.Integer("mamba_d_conv", 4),
            InnerSize = inner,
            HeadDim = headDim,
            NGroups = groups,
            NormGroups = groups,
            UseNorm = config.Flag("mamba_rms_norm", false),
            NormBeforeGate = config.Flag("mamba_norm_before_gate", true),
            NormEps = config.Number("rms_norm_eps", 1e-5),
            DtLimitMin = min,
            DtLimitMax = max,
            UseBias = config.Flag("mamba_proj_bias", false),
            UseOutputBias = config.Flag("projectors_bias", false),
            UseConvBias = config.Flag("mamba_conv_bias", true),
            InputMultiplier = config.Number("ssm_in_multiplier", 1),
            ProjectionMultipliers = config.Numbers("ssm_multipliers"),
        };
    }
}
