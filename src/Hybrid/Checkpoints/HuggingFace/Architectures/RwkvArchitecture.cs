using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Mixers;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>RWKV-4: a layer of the hub is two here, time mix and channel mix, each with its state.</summary>
internal sealed class RwkvArchitecture : HubArchitecture
{
    // The reference gives the last norm the default of its framework and every other one the configuration's.
    private const double FinalNormEps = 1e-5;

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["rwkv"] = "RwkvForCausalLM" };

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var layers = HubFields.Repeat(config, "rwkv", "rwkv_channel_mix");
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: false);

        // The context length is that of the training, which a recurrence can go past.
        config.Ignore("context_length");
        var rescaleEvery = (int)config.Integer("rescale_every", 6);
        var timeMix = new RwkvOptions
        {
            Form = WkvForm.Rwkv4,
            AttentionHiddenSize = config.Integer("attention_hidden_size", sizes.HiddenSize),
        };
        var channelMix = new RwkvChannelOptions { IntermediateSize = config.Integer("intermediate_size", 4 * sizes.HiddenSize) };
        return new HubModel(sizes with
        {
            Norm = NormKind.LayerNorm,
            NormEps = config.Number("layer_norm_epsilon", 1e-5),
            FinalNormEps = FinalNormEps,
            NormEmbedding = true,
            RescaleEvery = rescaleEvery > 0 ? 2 * rescaleEvery : null,
            Mixers = HubFields.Mixers(layers, ("rwkv", timeMix), ("rwkv_channel_mix", channelMix)),
        });
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        map.Rename("embedding", "rwkv.embeddings");
        map.Rename("backbone.input_norm", "rwkv.blocks.0.pre_ln");
        map.Rename("backbone.norm_f", "rwkv.ln_out");
        map.Rename("lm_head", "head");
        for (var i = 0; i < map.Model.Backbone.Blocks.Count / 2; i++)
        {
            map.Rename($"backbone.layers.{2 * i}.norm", $"rwkv.blocks.{i}.ln1");
            map.Rename($"backbone.layers.{2 * i}.mixer", $"rwkv.blocks.{i}.attention");
            map.Rename($"backbone.layers.{(2 * i) + 1}.norm", $"rwkv.blocks.{i}.ln2");
            map.Rename($"backbone.layers.{(2 * i) + 1}.mixer", $"rwkv.blocks.{i}.feed_forward");
        }
    }
}
