using Hybrid.Layers;
using Hybrid.Mixers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>RecurrentGemma: Griffin's recurrent blocks and local attention, GELU-gated feed-forward layers.</summary>
internal sealed class RecurrentGemmaArchitecture : HubArchitecture
{
    private static readonly Dictionary<string, string> Words = new() { ["recurrent"] = "griffin_lru", ["attention"] = "attention" };

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } =
        new Dictionary<string, string> { ["recurrent_gemma"] = "RecurrentGemmaForCausalLM" };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var count = HubFields.Repeat(config, "attention").Count;
        var cycle = HubFields.LayersOf(config, config.Spelling("block_types", "_block_types"), Words) ?? ["griffin_lru", "griffin_lru", "attention"];
        string[] layers = [.. Enumerable.Range(0, count).Select(i => cycle[i % cycle.Count])];
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: true);
        config.Require("hidden_activation", "gelu_pytorch_tanh");
        config.Require("embeddings_scale_by_sqrt_dim", "true");
        var heads = HubFields.Attention(config);
        var attention = HubFields.WithRotary(heads, config, share: 0.5) with
        {
            WindowSize = config.Integer("attention_window_size", 2048),
            UseBias = config.Flag("attention_bias", false),
            UseOutputBias = true,
        };
        var griffin = new GriffinOptions
        {
            LruWidth = config.Integer("lru_width", sizes.HiddenSize),
            NumHeads = heads.NumHeads,
            DConv = config.Integer("conv1d_width", 4),
        };
        return new HubModel(sizes with
        {
            EmbeddingMultiplier = RoundedRoot(sizes.HiddenSize),
            LogitsSoftCap = config.Number("logits_soft_cap", 30),
            Norm = NormKind.ZeroCentredRms,
            NormEps = config.Number("rms_norm_eps", 1e-6),
            FeedForward = new FeedForwardOptions { Kind = FeedForwardKind.GegluTanh, IntermediateSize = config.Integer("intermediate_size") / 2 },
            Mixers = HubFields.Mixers(layers, ("griffin_lru", griffin), ("attention", attention)),
        });
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        map.Rename("embedding", "model.embed_tokens");
        map.Rename("backbone.norm_f", "model.final_norm");
        map.Rename("lm_head", "lm_head");
        foreach (var (own, hub, _) in map.Layers("model.layers"))
        {
            map.Rename($"{own}.norm", $"{hub}.temporal_pre_norm");
            map.Rename($"{own}.mixer", $"{hub}.temporal_block");
            map.Rename($"{own}.ffn_norm", $"{hub}.channel_pre_norm");
            map.Rename($"{own}.ffn", $"{hub}.mlp_block");
        }
    }

    /// <summary>sqrt D in bfloat16, which the reference keeps the factor in whatever the type of the weights.</summary>
    private static double RoundedRoot(long width)
    {
        using var scope = NewDisposeScope();
        return tensor(Math.Sqrt(width), dtype: ScalarType.Float32).to_type(ScalarType.BFloat16).to_type(ScalarType.Float64).item<double>();
    }
}
