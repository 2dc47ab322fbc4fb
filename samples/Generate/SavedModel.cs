using Hybrid.Checkpoints;
using Hybrid.Modeling;
using Hybrid.Tokenizers;

namespace Hybrid.Samples;

/// <summary>Loads a model from a folder of either kind.</summary>
internal static class SavedModel
{
    /// <summary>Loads a checkpoint that TrainAndGenerate wrote, or a folder of a model hub, which has a config.json.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="tokenizer">A tokenizer.json to use; null means the folder's own, and bytes for a model of 256 ids without one.</param>
    public static CausalLanguageModel Load(string folder, string? tokenizer)
    {
        var model = File.Exists(Path.Combine(folder, "config.json"))
            ? CausalLanguageModel.FromPretrained(folder)
            : TrainingCheckpoint.Open(folder).LoadModel();
        model.Tokenizer = tokenizer is null ? model.Tokenizer : BpeTokenizer.Load(tokenizer);
        return model;
    }
}
