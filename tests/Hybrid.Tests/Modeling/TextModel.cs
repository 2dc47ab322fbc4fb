using Hybrid.Modeling;

namespace Hybrid.Tests.Modeling;

/// <summary>A small model over bytes, with a tokenizer.</summary>
internal static class TextModel
{
    public static CausalLanguageModel Create(long maxLength = 256, double embeddingScale = 2, params string[] layers)
    {
        var options = SmallModel.Options(vocabulary: 256, maxLength: maxLength);
        return SmallModel.Create(layers.Length == 0 ? options : options with { Layers = layers, NumLayers = layers.Length, Mixers = Only(options, layers) }, embeddingScale);
    }

    private static Dictionary<string, object> Only(LanguageModelOptions options, string[] layers) =>
        options.Mixers.Where(entry => layers.Contains(entry.Key)).ToDictionary(entry => entry.Key, entry => entry.Value);
}
