using System.Text.Json.Nodes;
using Hybrid.Modeling;
using Hybrid.Tokenizers;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>The tokenizer of a model folder: its files as they are, and what they describe, or the reason why it cannot be used.</summary>
internal sealed class HubTokenizer
{
    private const string FileName = "tokenizer.json";
    private const string ConfigName = "tokenizer_config.json";

    // All that the tokenizers of transformers read, so that a saved model has it too.
    private static readonly string[] Names =
    [
        FileName, ConfigName, "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
        "chat_template.jinja", "chat_template.json",
    ];

    private HubTokenizer(IReadOnlyList<(string Name, byte[] Content)> files, BpeTokenizer? tokenizer, string? problem) =>
        (Files, Tokenizer, Problem) = (files, tokenizer, problem);

    /// <summary>The files that the folder has, with their content.</summary>
    public IReadOnlyList<(string Name, byte[] Content)> Files { get; }

    /// <summary>The tokenizer; null where there is none that can be used.</summary>
    public BpeTokenizer? Tokenizer { get; }

    /// <summary>Why there is none; null where there is one.</summary>
    public string? Problem { get; }

    /// <summary>Names of the files that belong to a tokenizer.</summary>
    public static IReadOnlyList<string> FileNames => Names;

    /// <summary>Reads the tokenizer of a folder. One that cannot be used is no error here.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="vocabSize">Number of ids of the model.</param>
    public static HubTokenizer Open(string folder, long vocabSize)
    {
        var files = Names.Where(name => File.Exists(Path.Combine(folder, name))).Select(name => (name, File.ReadAllBytes(Path.Combine(folder, name)))).ToArray();
        if (Find(files, FileName) is not { } file)
        {
            var others = files.Length == 0 ? "" : $", but {string.Join(", ", files.Select(entry => entry.name))}, which this library does not read";
            return new HubTokenizer(files, null, $"{folder}: there is no {FileName}{others}");
        }

        try
        {
            var config = Find(files, ConfigName) is { } content ? (Path.Combine(folder, ConfigName), content) : default((string, byte[])?);
            var options = new BpeTokenizerOptions { PaddedVocabSize = (int)vocabSize };
            return new HubTokenizer(files, BpeTokenizer.Read(Path.Combine(folder, FileName), file, config, options), null);
        }
        catch (Exception error) when (error is NotSupportedException or InvalidDataException)
        {
            return new HubTokenizer(files, null, error.Message.TrimEnd('.'));
        }
    }

    /// <summary>The files to save with a model; none where its tokenizer has no file.</summary>
    public static IReadOnlyList<(string Name, byte[] Content)> FilesOf(CausalLanguageModel model) => (model.Origin?.Tokenizer, model.Tokenizer) switch
    {
        (var loaded, BpeTokenizer set) when !ReferenceEquals(set, loaded?.Tokenizer) => [(FileName, set.Source), .. GenericConfig()],
        ({ Files: [_, ..] files }, _) => files,
        (_, ByteTokenizer) => [(FileName, HubJson.Utf8(ByteTokens())), .. GenericConfig()],
        _ => [],
    };

    /// <summary>Writes files into a folder.</summary>
    public static void Write(string folder, IEnumerable<(string Name, byte[] Content)> files)
    {
        foreach (var (name, content) in files)
        {
            File.WriteAllBytes(Path.Combine(folder, name), content);
        }
    }

    /// <summary>Copies the tokenizer files of a folder into another.</summary>
    public static void Copy(string folder, string target)
    {
        foreach (var name in Names.Where(name => File.Exists(Path.Combine(folder, name))))
        {
            File.Copy(Path.Combine(folder, name), Path.Combine(target, name));
        }
    }

    private static byte[]? Find((string Name, byte[] Content)[] files, string name) => Array.Find(files, file => file.Name == name).Content;

    // transformers takes the class for the type of the model where the file does not say, and some of these classes change what is read.
    private static (string Name, byte[] Content)[] GenericConfig() =>
        [(ConfigName, HubJson.Utf8(new JsonObject { ["clean_up_tokenization_spaces"] = false, ["tokenizer_class"] = "PreTrainedTokenizerFast" }))];

    /// <summary>A tokenizer whose 256 tokens are the bytes, the byte's value its id.</summary>
    private static JsonObject ByteTokens() => new()
    {
        ["version"] = "1.0",
        ["truncation"] = null,
        ["padding"] = null,
        ["added_tokens"] = new JsonArray(),
        ["normalizer"] = null,
        ["pre_tokenizer"] = ByteLevel(),
        ["post_processor"] = null,
        ["decoder"] = ByteLevel(),
        ["model"] = new JsonObject
        {
            ["type"] = "BPE",
            ["dropout"] = null,
            ["unk_token"] = null,
            ["continuing_subword_prefix"] = null,
            ["end_of_word_suffix"] = null,
            ["fuse_unk"] = false,
            ["byte_fallback"] = false,
            ["ignore_merges"] = false,
            ["vocab"] = new JsonObject(Enumerable.Range(0, ByteTokenizer.Vocabulary)
                .Select(value => KeyValuePair.Create(ByteAlphabet.Letter((byte)value).ToString(), (JsonNode?)value))),
            ["merges"] = new JsonArray(),
        },
    };

    private static JsonObject ByteLevel() => new() { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["trim_offsets"] = true, ["use_regex"] = false };
}
