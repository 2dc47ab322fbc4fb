using System.Text.Json.Nodes;
using Hybrid.Mixers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Mamba-2 (Codestral Mamba and its kin).</summary>
internal sealed class Mamba2Architecture : HubArchitecture
{
    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string> { ["mamba2"] = "Mamba2ForCausalLM" };

    /// <inheritdoc/>
    public override bool CanExport => true;

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var layers = HubFields.Repeat(config, "mamba2");
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: false);
        var inner = (long)(config.Number("expand", 2) * sizes.HiddenSize);
        var headDim = config.Count("head_dim", 64);
        config.Require("hidden_act", "silu");
        config.Require("num_heads", $"{inner / headDim}");

        // The chunk size changes no number; the norm is there whatever rms_norm says, and always after the gate.
        config.Ignore("chunk_size", "rms_norm", "norm_before_gate", "intermediate_size");
        var (min, max) = HubFields.StepLimit(config);
        var mamba = new Mamba2Options
        {
            DState = config.Integer("state_size", 128),
            DConv = config.Integer("conv_kernel", 4),
            InnerSize = inner,
            HeadDim = headDim,
            NGroups = config.Integer("n_groups", 8),
            DtLimitMin = min,
            DtLimitMax = max,
            UseBias = config.Flag("use_bias", false),
            UseConvBias = config.Flag("use_conv_bias", true),
            NormEps = config.Number("layer_norm_epsilon", 1e-5),
        };
        return new HubModel(sizes with { NormEps = mamba.NormEps, Mixers = HubFields.Mixers(layers, ("mamba2", mamba)) });
    }

    /// <inheritdoc/>
    public override void Map(WeightMap map)
    {
        HubFields.MapAroundLayers(map);
        map.Rename("backbone.layers", "backbone.layers");
    }

    /// <inheritdoc/>
    public override JsonObject Export(LanguageModelOptions options)
    {
        var mamba = options.Mixers.GetValueOrDefault("mamba2") as Mamba2Options ?? new();
        var inner = mamba.ResolveInnerSize(options.HiddenSize);
        var config = new JsonObject
        {
            ["vocab_size"] = options.VocabSize,
            ["hidden_size"] = options.HiddenSize,
            ["num_hidden_layers"] = options.NumLayers,
            ["tie_word_embeddings"] = options.TieEmbeddings,
            ["layer_norm_epsilon"] = options.NormEps,
            ["state_size"] = mamba.DState,
            ["conv_kernel"] = mamba.DConv,
            ["expand"] = HubExport.Ratio(inner, options.HiddenSize),
            ["head_dim"] = mamba.HeadDim,
            ["num_heads"] = inner / mamba.HeadDim,
            ["n_groups"] = mamba.NGroups,
            ["chunk_size"] = mamba.ChunkSize,
            ["use_bias"] = mamba.UseBias,
            ["use_conv_bias"] = mamba.UseConvBias,
            ["hidden_act"] = "silu",
            ["rms_norm"] = true,
            ["residual_in_fp32"] = false,
        };
        HubExport.AddStepLimit(config, mamba);
        return config;
    }
}
