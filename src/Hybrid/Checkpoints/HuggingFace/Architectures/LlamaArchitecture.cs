using Hybrid.Layers;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Llama and Mistral: attention with rotary positions, Mistral's with a window, and SwiGLU.</summary>
internal sealed class LlamaArchitecture : HubArchitecture
{
    private const string Mistral = "mistral";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string>
    {
        ["llama"] = "LlamaForCausalLM",
        [Mistral] = "MistralForCausalLM",
    };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var isMistral = config.Text("model_type") == Mistral;
        var layers = HubFields.Repeat(config, "attention");
        var biases = !isMistral && config.Flag("attention_bias", false);
        config.Require("hidden_act", "silu");
        var attention = HubFields.WithRotary(HubFields.Attention(config), config) with
        {
            UseBias = biases,
            UseOutputBias = biases,
            WindowSize = isMistral ? config.OptionalInteger("sliding_window") : null,
        };
        return new HubModel(HubFields.Sizes(config, layers, tiedByDefault: false) with
        {
            NormEps = config.Number("rms_norm_eps", 1e-6),
            FeedForward = new FeedForwardOptions
            {
                IntermediateSize = config.Integer("intermediate_size"),
                UseBias = !isMistral && config.Flag("mlp_bias", false),
            },
            Mixers = HubFields.Mixers(layers, ("attention", attention)),
        });
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        map.Rename("embedding", "model.embed_tokens");
        map.Rename("backbone.norm_f", "model.norm");
        map.Rename("lm_head", "lm_head");
        foreach (var (own, hub, _) in map.Layers("model.layers"))
        {
            map.Rename($"{own}.norm", $"{hub}.input_layernorm");
            map.Rename($"{own}.mixer", $"{hub}.self_attn");
            map.Rename($"{own}.ffn_norm", $"{hub}.post_attention_layernorm");
            map.Rename($"{own}.ffn", $"{hub}.mlp");
        }
    }
}
