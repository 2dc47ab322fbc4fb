using System.Text.Json.Nodes;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>What generation_config.json asks for; where the file is missing, config.json may name the tokens that end a text.</summary>
internal sealed class HubGeneration
{
    /// <summary>Name of the file.</summary>
    public const string FileName = "generation_config.json";

    // How transformers draws where the file says so and no more: from the 50 most likely tokens.
    private const int DefaultTopK = 50;

    private static readonly string[] Inert =
    [
        "_from_model_config", "transformers_version", "bos_token_id", "pad_token_id", "use_cache", "output_attentions", "output_hidden_states",
        "output_scores", "output_logits", "return_dict_in_generate", "max_length", "cache_implementation", "trust_remote_code",
    ];

    private readonly HubConfig? config;

    private HubGeneration(JsonObject? json, HubConfig? config) => (Json, this.config) = (json, config);

    /// <summary>Content of the file; null where there is none.</summary>
    public JsonObject? Json { get; }

    /// <summary>The options that the file asks for.</summary>
    /// <exception cref="NotSupportedException">It asks for a way to choose tokens that this library lacks.</exception>
    /// <exception cref="InvalidDataException">A value in it means nothing.</exception>
    public GenerationOptions Options => config is null ? new GenerationOptions() : Read(config);

    /// <summary>Content of the file for a model: its own where it came with one, else the special tokens of its configuration.</summary>
    public static JsonObject For(CausalLanguageModel model, JsonObject config)
    {
        if (model.Origin?.Generation.Json is { } own)
        {
            return own;
        }

        string[] fields = ["bos_token_id", "eos_token_id", "pad_token_id"];
        var tokens = fields.Where(field => config[field] is not null).Select(field => KeyValuePair.Create(field, config[field]?.DeepClone()));
        return new JsonObject(tokens) { ["_from_model_config"] = true };
    }

    /// <summary>Writes the file where there was one.</summary>
    public void Write(string folder)
    {
        if (Json is not null)
        {
            HubJson.WriteFile(folder, FileName, Json);
        }
    }

    /// <summary>Reads the file of a folder.</summary>
    public static HubGeneration Open(string folder, JsonObject modelConfig)
    {
        var path = Path.Combine(folder, FileName);
        if (File.Exists(path))
        {
            var json = HubJson.Read(path);
            return new HubGeneration(json, new HubConfig(path, json));
        }

        return modelConfig["eos_token_id"] is { } end
            ? new HubGeneration(null, new HubConfig("config.json", new JsonObject { ["eos_token_id"] = end.DeepClone() }))
            : new HubGeneration(null, null);
    }

    private static GenerationOptions Read(HubConfig config)
    {
        var options = new GenerationOptions();
        var draws = config.Flag("do_sample", false);
        var temperature = config.Number("temperature", 1);
        var topK = config.Integer("top_k", DefaultTopK);
        var topP = config.Number("top_p", 1);
        var minP = config.Number("min_p", 0);
        options = options with
        {
            MaxNewTokens = Narrow(config.Integer("max_new_tokens", options.MaxNewTokens)),
            Temperature = draws ? temperature : 0,
            TopK = draws ? Narrow(topK) : 0,
            TopP = draws ? topP : 1,
            MinP = draws ? minP : 0,
            RepetitionPenalty = config.Number("repetition_penalty", 1),
            StopTokens = [.. EndTokens(config)],
        };
        config.Require("num_beams", "1");
        config.Require("num_return_sequences", "1");
        config.Ignore(Inert);
        config.RequireAllRead();
        try
        {
            options.Validate();
            return options;
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"{FileName}: {error.Message}", error);
        }
    }

    private static IEnumerable<int> EndTokens(HubConfig config)
    {
        const string field = "eos_token_id";
        return config.IsList(field) ? config.Integers(field)!.Select(Narrow) : config.OptionalInteger(field) is { } id ? [Narrow(id)] : [];
    }

    // A number beyond all numbers of tokens, or all ids, means the same as the largest of them.
    private static int Narrow(long number) => (int)Math.Clamp(number, int.MinValue, int.MaxValue);
}
