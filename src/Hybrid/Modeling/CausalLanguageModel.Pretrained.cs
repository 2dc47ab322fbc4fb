using Hybrid.Checkpoints.HuggingFace;

namespace Hybrid.Modeling;

/// <content>Checkpoints of model hubs.</content>
public sealed partial class CausalLanguageModel
{
    /// <summary>How to continue text where a caller does not say: what generation_config.json asks for, else the defaults of the record.</summary>
    /// <exception cref="NotSupportedException">The file asks for a way to choose tokens that this library lacks; pass GenerationOptions then.</exception>
    /// <exception cref="InvalidDataException">A value in the file means nothing, such as a negative temperature.</exception>
    public GenerationOptions GenerationDefaults => Origin?.Generation.Options ?? new GenerationOptions();

    /// <summary>
    /// Why the folder that the model was loaded from gave no <see cref="Tokenizer"/>: it has none, or one of a kind that this library lacks;
    /// null where it gave one, and for a model made here. Set <see cref="Tokenizer"/> then, or work with ids.
    /// </summary>
    public string? TokenizerProblem => Origin?.Tokenizer.Problem;

    /// <summary>The folder's files that the model came from; null for one made here.</summary>
    internal HubOrigin? Origin { get; set; }

    /// <summary>
    /// Makes a model from a folder in the layout of model hubs: config.json, model.safetensors or several files with
    /// model.safetensors.index.json, and optionally generation_config.json, tokenizer.json and tokenizer_config.json. The model types are those
    /// of <see cref="PretrainedModelTypes"/>. While it loads, memory holds the model and one more tensor. A tokenizer that cannot be read
    /// does not keep the model from loading: see <see cref="TokenizerProblem"/>.
    /// </summary>
    /// <param name="folder">The folder.</param>
    /// <param name="device">Where the weights go: "cpu", "cuda", "cuda:1" and so on. Default "cpu".</param>
    /// <param name="dtype">Type of the weights: "float32", "bfloat16", or "auto" (default), the type that the files have.</param>
    /// <returns>The model in evaluation mode; the caller disposes it.</returns>
    /// <exception cref="FileNotFoundException">A file of the layout is not there.</exception>
    /// <exception cref="NotSupportedException">The model type, or a value in config.json, is one that this library lacks.</exception>
    /// <exception cref="InvalidDataException">A file is malformed, or the tensors are not those of the configuration.</exception>
    public static CausalLanguageModel FromPretrained(string folder, string device = "cpu", string dtype = "auto") =>
        PretrainedFolder.Load(folder, device, dtype);

    /// <summary>The model types ("model_type" in config.json) that <see cref="FromPretrained"/> reads, sorted.</summary>
    public static IReadOnlyList<string> PretrainedModelTypes => HubArchitecture.ModelTypes;

    /// <summary>
    /// Writes the model as transformers, vLLM and llama.cpp read it: config.json, model.safetensors or numbered files with their index,
    /// generation_config.json and the tokenizer. A model that was loaded keeps its type, and its tokenizer files byte for byte; one made here
    /// is written as mamba, mamba2, jamba or bamba where its layers are those of one of them. Of tokenizers set here, a
    /// <see cref="Tokenizers.BpeTokenizer"/> is written as the file that it was read from and a <see cref="ByteTokenizer"/> as a tokenizer.json
    /// of 256 tokens; others have no file, and tokenizer files that the folder holds stay. The folder is replaced as a whole, or stays as it
    /// was.
    /// </summary>
    /// <param name="folder">The folder; it may hold a model and tokenizer files, which are replaced, but nothing else.</param>
    /// <param name="maxShardSize">Bytes of tensors in one file, at least 1; a larger tensor has a file to itself. Default 5,000,000,000.</param>
    /// <exception cref="NotSupportedException">No model type has such layers; the message says what stands against each.</exception>
    /// <exception cref="IOException">The folder holds other files, which would be lost, or cannot be written.</exception>
    public void SavePretrained(string folder, long maxShardSize = 5_000_000_000) => PretrainedFolder.Save(this, folder, maxShardSize);
}
