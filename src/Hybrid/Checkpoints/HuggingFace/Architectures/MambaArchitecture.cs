using System.Text.Json.Nodes;
using Hybrid.Mixers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace.Architectures;

/// <summary>Mamba (state-spaces/mamba-130m-hf and its kin) and Falcon Mamba, which adds norms without weights on dt, B and C.</summary>
internal sealed class MambaArchitecture : HubArchitecture
{
    private const string Falcon = "falcon_mamba";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Classes { get; } = new Dictionary<string, string>
    {
        ["mamba"] = "MambaForCausalLM",
        [Falcon] = "FalconMambaForCausalLM",
    };

    /// <inheritdoc/>
    public override bool CanExport => true;

    /// <inheritdoc/>
    public override HubModel Read(HubConfig config)
    {
        var isFalcon = config.Text("model_type") == Falcon;
        var layers = HubFields.Repeat(config, "mamba");
        var sizes = HubFields.Sizes(config, layers, tiedByDefault: true);
        var inner = config.Integer("intermediate_size", (long)(config.Number("expand", 2) * sizes.HiddenSize));
        config.Require("hidden_act", "silu");
        config.Require("rms_norm", "true");
        config.Require("d_model", $"{sizes.HiddenSize}");
        config.Require("n_layer", $"{sizes.NumLayers}");
        config.Require("d_inner", $"{inner}");
        config.Require("ssm_cfg", "{}");
        config.Ignore("time_step_min", "time_step_max", "time_step_floor", "fused_add_norm", "pad_vocab_size_multiple");
        var mamba = new MambaOptions
        {
            DState = config.Integer("state_size", 16),
            DConv = config.Integer("conv_kernel", 4),
            InnerSize = inner,
            DtRank = config.IsText("time_step_rank") ? null : config.OptionalInteger("time_step_rank"),
            UseBias = config.Flag("use_bias", false),
            UseConvBias = config.Flag("use_conv_bias", true),
            UseInnerNorms = isFalcon,
            UseInnerNormWeights = !isFalcon,
            InnerNormEps = isFalcon ? config.Number("mixer_rms_eps", 1e-6) : new MambaOptions().InnerNormEps,
        };
        return new HubModel(sizes with
        {
            NormEps = config.Number("layer_norm_epsilon", 1e-5),
            Mixers = HubFields.Mixers(layers, ("mamba", mamba)),
        });
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
        var mamba = options.Mixers.GetValueOrDefault("mamba") as MambaOptions ?? new();
        var inner = mamba.ResolveInnerSize(options.HiddenSize);
        return new JsonObject
        {
            ["vocab_size"] = options.VocabSize,
            ["hidden_size"] = options.HiddenSize,
            ["num_hidden_layers"] = options.NumLayers,
            ["tie_word_embeddings"] = options.TieEmbeddings,
            ["layer_norm_epsilon"] = options.NormEps,
            ["state_size"] = mamba.DState,
            ["conv_kernel"] = mamba.DConv,
            ["intermediate_size"] = inner,
            ["expand"] = HubExport.Ratio(inner, options.HiddenSize),
            ["time_step_rank"] = mamba.ResolveDtRank(options.HiddenSize),
            ["use_bias"] = mamba.UseBias,
            ["use_conv_bias"] = mamba.UseConvBias,
            ["hidden_act"] = "silu",
            ["residual_in_fp32"] = false,
        };
    }
}
