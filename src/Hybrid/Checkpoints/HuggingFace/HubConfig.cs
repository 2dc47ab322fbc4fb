using System.Text.Json.Nodes;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>
/// Reads config.json field by field and remembers which fields were asked for: one that nobody asked for, and that is not known to be
/// without effect on what the model computes, is an error. A field that is null counts as missing.
/// </summary>
/// <param name="path">The file, for messages.</param>
/// <param name="json">Its content.</param>
internal sealed class HubConfig(string path, JsonObject json)
{
    // What other programs write for themselves: provenance, how the weights were initialised or stored, special tokens (generation has its
    // own file), how their outputs are returned, and which of their implementations runs.
    private static readonly HashSet<string> Inert = new(StringComparer.Ordinal)
    {
        "architectures", "model_type", "auto_map", "transformers_version", "_name_or_path", "_attn_implementation", "_attn_implementation_autoset",
        "dtype", "torch_dtype", "use_cache", "initializer_range", "initializer_cfg", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
        "return_dict", "output_attentions", "output_hidden_states", "torchscript", "problem_type", "id2label", "label2id", "task_specific_params",
        "tokenizer_class", "pruned_heads", "is_decoder", "is_encoder_decoder", "chunk_size_feed_forward", "finetuning_task", "use_bfloat16",
        "num_logits_to_keep", "rescale_prenorm_residual", "time_step_init_scheme", "time_step_scale", "time_step_rank_init", "residual_in_fp32",
        "use_mambapy", "use_falcon_mambapy", "use_associative_scan", "use_mamba_kernels", "use_mem_eff_path", "z_loss_coefficient", "pretraining_tp",
        "w_init_variance_scale", "final_w_init_variance_scale", "mamba_ssm_cache_dtype", "init_method", "unsloth_fixed", "unsloth_version",
    };

    private readonly HashSet<string> known = new(StringComparer.Ordinal);

    /// <summary>True where the field is there and not null.</summary>
    public bool Has(string field) => Find(field) is not null;

    /// <summary>True where the field is a list.</summary>
    public bool IsList(string field) => Find(field) is JsonArray;

    /// <summary>True where the field is text, such as "auto".</summary>
    public bool IsText(string field) => Find(field) is JsonValue value && value.TryGetValue<string>(out _);

    /// <summary>The first of several spellings of one field that is there; the first of them if none is.</summary>
    public string Spelling(params string[] spellings)
    {
        known.UnionWith(spellings);
        return spellings.FirstOrDefault(Has) ?? spellings[0];
    }

    /// <summary>A whole number; without a fallback the field must be there.</summary>
    public long Integer(string field, long? fallback = null) =>
        Find(field) is { } node ? AsInteger(field, node) : fallback ?? throw Missing(field);

    /// <summary>A number of things, such as layers or heads: 1 or more; without a fallback the field must be there.</summary>
    public int Count(string field, int? fallback = null) => Integer(field, fallback) is var count and >= 1 and <= int.MaxValue
        ? (int)count
        : throw Malformed(field, "1 or more");

    /// <summary>A whole number, or null where the field is missing.</summary>
    public long? OptionalInteger(string field) => Find(field) is { } node ? AsInteger(field, node) : null;

    /// <summary>A number; without a fallback the field must be there.</summary>
    public double Number(string field, double? fallback = null) =>
        Find(field) is { } node ? AsNumber(field, node) : fallback ?? throw Missing(field);

    /// <summary>true or false; without a fallback the field must be there.</summary>
    public bool Flag(string field, bool? fallback = null) => Find(field) switch
    {
        null => fallback ?? throw Missing(field),
        JsonValue value when value.TryGetValue<bool>(out var flag) => flag,
        var other => throw Malformed(field, "true or false", other),
    };

    /// <summary>Text; without a fallback the field must be there.</summary>
    public string Text(string field, string? fallback = null) =>
        Find(field) is { } node ? AsText(field, node) : fallback ?? throw Missing(field);

    /// <summary>A list of text, or null where the field is missing.</summary>
    public IReadOnlyList<string>? Texts(string field) => Items(field)?.Select(node => AsText(field, node)).ToArray();

    /// <summary>A list of whole numbers, or null where the field is missing.</summary>
    public IReadOnlyList<long>? Integers(string field) => Items(field)?.Select(node => AsInteger(field, node)).ToArray();

    /// <summary>A list of numbers, which may be infinite, or null where the field is missing.</summary>
    public IReadOnlyList<double>? Numbers(string field) => Items(field)?.Select(node => AsNumber(field, node)).ToArray();

    /// <summary>The fields of an object, or null where the field is missing; what of it is not read is an error too.</summary>
    public HubConfig? Table(string field) => Find(field) switch
    {
        null => null,
        JsonObject table => new HubConfig($"{path}: {field}", table),
        var other => throw Malformed(field, "an object", other),
    };

    /// <summary>Throws unless a field is missing or has the one value that this library computes with.</summary>
    public void Require(string field, params string[] supported)
    {
        if (Find(field) is { } node && !supported.Contains(node.ToJsonString().Trim('"')))
        {
            throw Unsupported(field, supported.Length == 0 ? "nothing" : string.Join(" or ", supported));
        }
    }

    /// <summary>Marks fields as known that cannot matter beside those that were read.</summary>
    public void Ignore(params string[] fields) => known.UnionWith(fields);

    /// <summary>Throws where a field was not read and is not known to be without effect.</summary>
    public void RequireAllRead()
    {
        var unread = json.Where(field => field.Value is not null && !known.Contains(field.Key) && !Inert.Contains(field.Key))
            .Select(field => $"'{field.Key}'").ToArray();
        if (unread.Length > 0)
        {
            throw new NotSupportedException(
                $"{path}: the fields {string.Join(", ", unread)} are not known for this model type, so what they ask for would be lost.");
        }
    }

    /// <summary>The error of a value that transformers may know and this library lacks.</summary>
    public NotSupportedException Unsupported(string field, string supported) =>
        new($"{path}: field '{field}': expected {supported}; found {Find(field)?.ToJsonString() ?? "nothing"}.");

    /// <summary>The error of a value that has no meaning.</summary>
    public InvalidDataException Malformed(string field, string expected) => Malformed(field, expected, Find(field));

    private InvalidDataException Malformed(string field, string expected, JsonNode? found) =>
        new($"{path}: field '{field}': expected {expected}; found {found?.ToJsonString() ?? "nothing"}.");

    private InvalidDataException Missing(string field) => new($"{path}: field '{field}': expected a value; found none.");

    private JsonNode? Find(string field)
    {
        known.Add(field);
        return json[field];
    }

    private JsonArray? Items(string field) => Find(field) switch
    {
        null => null,
        JsonArray items => items,
        var other => throw Malformed(field, "a list", other),
    };

    private long AsInteger(string field, JsonNode? node)
    {
        var number = AsNumber(field, node);
        return Math.Abs(number) < 1L << 53 && Math.Floor(number) == number ? (long)number : throw Malformed(field, "a whole number", node);
    }

    private double AsNumber(string field, JsonNode? node) => node switch
    {
        JsonValue value when value.TryGetValue<double>(out var number) => number,
        JsonObject { Count: 1 } wrapped when wrapped["__float__"] is JsonValue text && text.TryGetValue<string>(out var name) =>
            HubJson.ParseSpecial(name) ?? throw Malformed(field, "a number", node),
        _ => throw Malformed(field, "a number", node),
    };

    private string AsText(string field, JsonNode? node) =>
        node is JsonValue value && value.TryGetValue<string>(out var text) ? text : throw Malformed(field, "text", node);
}
