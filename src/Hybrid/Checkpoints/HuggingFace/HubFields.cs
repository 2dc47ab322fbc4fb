using Hybrid.Attention;
using Hybrid.Layers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>Fields that several architectures spell in the same way.</summary>
internal static class HubFields
{
    /// <summary>The longest sequence of a model that has no limit.</summary>
    public const long NoLimit = long.MaxValue;

    /// <summary>Sizes that every configuration has.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="layers">Name of each layer.</param>
    /// <param name="tiedByDefault">Whether the head is tied where the configuration does not say.</param>
    public static LanguageModelOptions Sizes(HubConfig config, IReadOnlyList<string> layers, bool tiedByDefault) => new()
    {
        VocabSize = config.Count("vocab_size"),
        HiddenSize = config.Count("hidden_size"),
        NumLayers = layers.Count,
        Layers = layers,
        MaxSeqLen = config.Integer("max_position_embeddings", NoLimit),
        TieEmbeddings = config.Flag("tie_word_embeddings", tiedByDefault),
    };

    /// <summary>One name for every layer.</summary>
    public static IReadOnlyList<string> Repeat(HubConfig config, params string[] names)
    {
        const int most = 1 << 20;
        var count = config.Count("num_hidden_layers");
        return count <= most
            ? [.. Enumerable.Range(0, count).SelectMany(_ => names)]
            : throw config.Malformed("num_hidden_layers", $"at most {most}");
    }

    /// <summary>A list that names each layer in the words of a configuration.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="field">The field of the list.</param>
    /// <param name="words">Its words, each with the name of the mixer here.</param>
    public static IReadOnlyList<string>? LayersOf(HubConfig config, string field, IReadOnlyDictionary<string, string> words) =>
        config.Texts(field) switch
        {
            null => null,
            [] => throw config.Malformed(field, "at least one layer"),
            var list =>
            [
                .. list.Select(word =>
                    words.GetValueOrDefault(word) ?? throw config.Unsupported(field, $"layers of {string.Join(", ", words.Keys)}")),
            ],
        };

    /// <summary>Embedding, final norm and head under the names that Mamba's checkpoints began with; some spell the embedding in the singular.</summary>
    public static void MapAroundLayers(WeightMap map)
    {
        map.Rename("embedding", "backbone.embeddings");
        map.Alias("backbone.embedding.weight", "backbone.embeddings.weight");
        map.Rename("backbone.norm_f", "backbone.norm_f");
        map.Rename("lm_head", "lm_head");
    }

    /// <summary>Options of those mixers that some layer has.</summary>
    public static IReadOnlyDictionary<string, object> Mixers(IReadOnlyList<string> layers, params (string Name, object Options)[] mixers) =>
        mixers.Where(mixer => layers.Contains(mixer.Name)).ToDictionary(mixer => mixer.Name, mixer => mixer.Options);

    /// <summary>The feed-forward layer and the experts, each only where some layer has it.</summary>
    public static LanguageModelOptions WithFeedForward(LanguageModelOptions options, FeedForwardOptions dense, MixtureOfExpertsOptions? experts)
    {
        var sparse = experts is null ? 0 : Enumerable.Range(0, options.NumLayers).Count(experts.IsExpertLayer);
        return options with
        {
            FeedForward = sparse < options.NumLayers ? dense : null,
            MixtureOfExperts = sparse > 0 ? experts : null,
        };
    }

    /// <summary>Share of the load-balance loss: transformers adds it to the loss where the model is asked for its router's logits.</summary>
    public static double BalanceShare(HubConfig config)
    {
        var share = config.Number("router_aux_loss_coef", 0.001);
        config.Ignore("router_jitter_noise");
        return config.Flag("output_router_logits", false) ? share : 0;
    }

    /// <summary>Bounds of the step size; 0 and infinity bound nothing.</summary>
    public static (double? Min, double? Max) StepLimit(HubConfig config)
    {
        var field = config.Spelling("time_step_limit", "mamba_dt_limit");
        config.Ignore("time_step_min", "time_step_max", "time_step_floor", "time_step_rank");
        return config.Numbers(field) switch
        {
            null => (null, null),
            [var min, var max] => (min > 0 ? min : null, double.IsPositiveInfinity(max) ? null : max),
            _ => throw config.Malformed(field, "two numbers"),
        };
    }

    /// <summary>Heads of attention, without positions and biases.</summary>
    public static AttentionOptions Attention(HubConfig config)
    {
        var heads = config.Count("num_attention_heads");
        return new AttentionOptions
        {
            NumHeads = heads,
            NumKeyValueHeads = config.Integer("num_key_value_heads", heads),
            HeadDim = config.OptionalInteger(config.Spelling("head_dim", "attention_head_dim")),
            DropoutRate = config.Number("attention_dropout", 0),
            UseRope = false,
        };
    }

    /// <summary>The same with rotary positions, in the spelling of transformers 5 (rope_parameters) or 4 (rope_theta, rope_scaling).</summary>
    /// <param name="options">Attention.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="share">Share of the channels that turn where the configuration does not say.</param>
    public static AttentionOptions WithRotary(AttentionOptions options, HubConfig config, double share = 1)
    {
        var (theta, ownShare) = (config.Number("rope_theta", 10_000), config.Number("partial_rotary_factor", share));
        var older = config.Table("rope_scaling");
        var table = config.Table("rope_parameters") ?? older;
        var result = options with
        {
            UseRope = true,
            RopeTheta = table?.Number("rope_theta", theta) ?? theta,
            PartialRotaryFactor = table?.Number("partial_rotary_factor", ownShare) ?? ownShare,
            RopeScaling = table is null ? new RopeScaling() : Scaling(table, config),
        };
        table?.RequireAllRead();
        return result;
    }

    private static RopeScaling Scaling(HubConfig table, HubConfig config)
    {
        var field = table.Spelling("rope_type", "type");
        var longest = config.OptionalInteger("max_position_embeddings");
        return table.Text(field, "default") switch
        {
            "default" => new RopeScaling(),
            "linear" => new RopeScaling { Kind = RopeScalingKind.Linear, Factor = table.Number("factor") },
            "llama3" => new RopeScaling
            {
                Kind = RopeScalingKind.Llama3,
                Factor = table.Number("factor"),
                OriginalMaxPositionEmbeddings = table.Integer("original_max_position_embeddings", longest),
                LowFreqFactor = table.Number("low_freq_factor"),
                HighFreqFactor = table.Number("high_freq_factor"),
            },
            "yarn" => new RopeScaling
            {
                Kind = RopeScalingKind.Yarn,
                Factor = table.Number("factor"),
                OriginalMaxPositionEmbeddings = table.Integer("original_max_position_embeddings", longest),
                BetaFast = table.Number("beta_fast", 32),
                BetaSlow = table.Number("beta_slow", 1),
            },
            _ => throw table.Unsupported(field, "default, linear, llama3 or yarn"),
        };
    }
}
