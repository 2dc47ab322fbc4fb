using System.Text.Json.Nodes;
using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>Writes the options of models made here as fields of config.json, and proves that nothing was lost.</summary>
internal static class HubExport
{
    // Initial values, training, limits and how things are computed: what a forward pass of the trained model does not depend on.
    private static readonly HashSet<string> WithoutEffect = new(StringComparer.Ordinal)
    {
        "max_seq_len", "max_length", "dropout_rate", "use_gradient_checkpointing", "dt_min", "dt_max", "dt_init_floor", "chunk_size", "mode",
        "router_aux_loss_coefficient",
    };

    // Stated in another way on both sides, and compared as the pattern that they mean.
    private static readonly HashSet<string> OfThePattern = new(StringComparer.Ordinal)
    {
        "backbone", "attention_every", "attention_layers", "ratio", "hybrid_override_pattern", "layers", "expert_every", "expert_offset",
        "dense_layers",
    };

    /// <summary>The configuration of a model made here.</summary>
    /// <param name="architecture">The architecture to write it as.</param>
    /// <param name="options">The model's options.</param>
    /// <returns>Content of config.json, without dtype.</returns>
    /// <exception cref="NotSupportedException">
    /// The architecture has no such model: reading the configuration back would make another one. The message names what differs.
    /// </exception>
    public static JsonObject Write(HubArchitecture architecture, LanguageModelOptions options)
    {
        var (type, className) = architecture.Classes.First();
        var json = architecture.Export(options);
        json["model_type"] = type;
        json["architectures"] = new JsonArray(className);
        json = (JsonObject)JsonNode.Parse(json.ToJsonString())!;

        // Reading it back must give the same options.
        var config = new HubConfig("config.json", json);
        LanguageModelOptions read;
        try
        {
            config.Text("model_type");
            read = architecture.Read(config).Options;
            config.RequireAllRead();
            read.Validate();
        }
        catch (Exception error) when (error is ArgumentException or InvalidDataException)
        {
            throw new NotSupportedException(error.Message, error);
        }

        var (own, other) = (Describe(options), Describe(read));
        var differences = own.Keys.Union(other.Keys).Where(key => own.GetValueOrDefault(key) != other.GetValueOrDefault(key))
            .Select(key => $"{key} would have to be {other.GetValueOrDefault(key) ?? "absent"}, is {own.GetValueOrDefault(key) ?? "absent"}")
            .ToArray();
        return differences.Length == 0 ? json : throw new NotSupportedException(string.Join(", ", differences.Take(3)));
    }

    /// <summary>An inner width as a multiple of the model width.</summary>
    public static long Ratio(long inner, long width) =>
        inner % width == 0
            ? inner / width
            : throw new NotSupportedException($"the inner width must be a multiple of the width, {width}; it is {inner}");

    /// <summary>Period and offset of the layers of a mixer, which must have one.</summary>
    public static (int Period, int Offset) Period(LanguageModelOptions options, string name)
    {
        var names = options.ResolvePattern().Mixers;
        int[] places = [.. Enumerable.Range(0, names.Count).Where(i => names[i] == name)];
        return places switch
        {
            [] => (names.Count + 1, names.Count),
            [var only] => (names.Count, only),
            _ => (places[1] - places[0], places[0] % (places[1] - places[0])),
        };
    }

    /// <summary>The feed-forward layer and the experts of Jamba.</summary>
    public static void AddExperts(JsonObject config, LanguageModelOptions options)
    {
        var experts = options.MixtureOfExperts;
        var form = new FeedForwardOptions { IntermediateSize = experts?.IntermediateSize };
        config["intermediate_size"] = (options.FeedForward ?? form).ResolveIntermediateSize(options.HiddenSize);
        config["num_experts"] = experts?.NumExperts ?? 1;
        config["num_experts_per_tok"] = experts?.TopK ?? 1;
        config["expert_layer_period"] = experts?.ExpertEvery ?? 1;
        config["expert_layer_offset"] = experts?.ExpertOffset ?? 0;
        config["router_aux_loss_coef"] = experts?.RouterAuxLossCoefficient ?? 0;
        config["output_router_logits"] = false;
    }

    /// <summary>Bounds of the step size. No bound is left out, as infinity is no JSON; beside a lower bound it is the largest float32.</summary>
    public static void AddStepLimit(JsonObject config, Mamba2Options mamba)
    {
        if (mamba.DtLimitMin is not null || mamba.DtLimitMax is not null)
        {
            config["time_step_limit"] = new JsonArray(mamba.DtLimitMin ?? 0, mamba.DtLimitMax ?? float.MaxValue);
        }
    }

    /// <summary>All that a forward pass depends on, by key, with defaults written out.</summary>
    private static Dictionary<string, string> Describe(LanguageModelOptions options)
    {
        var result = new Dictionary<string, string>(StringComparer.Ordinal);
        var width = options.HiddenSize;
        var names = options.ResolvePattern().Mixers;
        var experts = options.MixtureOfExperts;
        Add(result, "", options with { FeedForward = null, MixtureOfExperts = null, FinalNormEps = options.FinalNormEps ?? options.NormEps });
        for (var i = 0; i < names.Count; i++)
        {
            var sparse = experts?.IsExpertLayer(i) == true;
            result[$"layer {i}"] = $"{names[i]}{(sparse ? " and experts" : options.FeedForward is null ? "" : " and feed-forward")}";
        }

        if (options.FeedForward is { } dense)
        {
            Add(result, "feed_forward.", dense with
            {
                IntermediateSize = dense.ResolveIntermediateSize(width),
                UseBias = dense.UseBias ?? dense.Kind is FeedForwardKind.Gelu or FeedForwardKind.GegluTanh,
            });
        }

        if (experts is not null)
        {
            var form = new FeedForwardOptions { Kind = experts.ExpertKind, IntermediateSize = experts.IntermediateSize };
            Add(result, "mixture_of_experts.", experts with { IntermediateSize = form.ResolveIntermediateSize(width) });
        }

        foreach (var name in names.Distinct())
        {
            Add(result, name + ".", Resolved(name, options.Mixers.GetValueOrDefault(name), width));
        }

        return result;
    }

    private static object Resolved(string name, object? options, long width) => (name, options) switch
    {
        ("mamba", null or MambaOptions) when (options as MambaOptions ?? new()) is var mamba => mamba with
        {
            InnerSize = mamba.ResolveInnerSize(width),
            ExpandFactor = 1,
            DtRank = mamba.ResolveDtRank(width),
            InnerNormEps = mamba.UseInnerNorms ? mamba.InnerNormEps : 1,
        },
        ("mamba2", null or Mamba2Options) when (options as Mamba2Options ?? new()) is var mamba => mamba with
        {
            InnerSize = mamba.ResolveInnerSize(width),
            ExpandFactor = 1,
            UseOutputBias = mamba.UseOutputBias ?? mamba.UseBias,
            DtLimitMax = mamba.DtLimitMax ?? float.MaxValue,
            DtLimitMin = mamba.DtLimitMin ?? 0,
        },
        ("attention", null or AttentionOptions) when (options as AttentionOptions ?? new()) is var attention => attention with
        {
            NumKeyValueHeads = attention.NumKeyValueHeads ?? attention.NumHeads,
            HeadDim = attention.HeadDim ?? (width / attention.NumHeads),
            RopeTheta = attention.UseRope ? attention.RopeTheta : 1,
            PartialRotaryFactor = attention.UseRope ? attention.PartialRotaryFactor : 1,
            RopeScaling = attention.UseRope ? attention.RopeScaling : new(),
        },
        _ => options ?? throw new NotSupportedException($"the mixer '{name}' is not in it"),
    };

    private static void Add(Dictionary<string, string> result, string prefix, object record)
    {
        foreach (var property in OptionProperty.Of(record.GetType()))
        {
            if (WithoutEffect.Contains(property.Key) || OfThePattern.Contains(property.Key) || property.Get(record) is not { } value)
            {
                continue;
            }

            if (property.IsRecord)
            {
                Add(result, $"{prefix}{property.Key}.", value);
            }
            else
            {
                result[prefix + property.Key] = value is System.Collections.IEnumerable list and not string
                    ? $"[{string.Join(", ", list.Cast<object>())}]"
                    : $"{value}";
            }
        }
    }
}
