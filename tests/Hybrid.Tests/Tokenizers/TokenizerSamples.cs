using System.Text.Json.Nodes;
using Hybrid.Tests.Checkpoints;
using Hybrid.Tokenizers;

namespace Hybrid.Tests.Tokenizers;

/// <summary>
/// Small tokenizers in three styles, trained by an independent program with Python's module "regex", which also computed the words and ids
/// of their cases.
/// </summary>
internal static class TokenizerSamples
{
    public static string PathOf(string name) => Path.Combine(AppContext.BaseDirectory, "Golden", "tokenizers", $"{name}.json");

    public static JsonNode Json(string name) => JsonNode.Parse(File.ReadAllText(PathOf(name)))!;

    public static BpeTokenizer Load(string name, BpeTokenizerOptions? options = null) => BpeTokenizer.Load(PathOf(name), options);

    /// <summary>Loads a sample after a change of its file.</summary>
    public static BpeTokenizer Changed(string name, Action<JsonNode> change, BpeTokenizerOptions? options = null)
    {
        var json = Json(name);
        change(json);
        return FromText(json.ToJsonString(), options);
    }

    public static BpeTokenizer FromText(string text, BpeTokenizerOptions? options = null)
    {
        using var folder = new TemporaryFolder();
        var path = folder.File("tokenizer.json");
        File.WriteAllText(path, text);
        return BpeTokenizer.Load(path, options);
    }
}
