using System.Text.Json.Nodes;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>The folder's files that a loaded model came from, all but the weights: what saving it in the same form needs.</summary>
/// <param name="Architecture">Its architecture.</param>
/// <param name="Config">Content of config.json.</param>
/// <param name="Generation">Content of generation_config.json.</param>
/// <param name="Tokenizer">The tokenizer's files.</param>
internal sealed record HubOrigin(HubArchitecture Architecture, JsonObject Config, HubGeneration Generation, HubTokenizer Tokenizer)
{
    /// <summary>Name of the file with type and sizes of a model.</summary>
    public const string ConfigName = "config.json";

    /// <summary>Reads the files of a folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <returns>What they are, and the model that they describe.</returns>
    /// <exception cref="FileNotFoundException">There is no config.json.</exception>
    /// <exception cref="NotSupportedException">It asks for what this library lacks.</exception>
    /// <exception cref="InvalidDataException">A file is malformed.</exception>
    public static (HubOrigin Origin, HubModel Described) Read(string folder)
    {
        var path = Path.Combine(folder, ConfigName);
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"{folder}: expected {ConfigName}; there is none.", path);
        }

        var json = HubJson.Read(path);
        var config = new HubConfig(path, json);
        var architecture = HubArchitecture.Find(path, config.Text("model_type"));
        var described = architecture.Read(config);
        config.RequireAllRead();
        var tokenizer = HubTokenizer.Open(folder, described.Options.VocabSize);
        return (new HubOrigin(architecture, json, HubGeneration.Open(folder, json), tokenizer), described);
    }

    /// <summary>Names of all files that <see cref="Write"/> may write.</summary>
    public static IEnumerable<string> FileNames => [ConfigName, HubGeneration.FileName, .. HubTokenizer.FileNames];

    /// <summary>Writes what a model of the same options lacks: the files that the model came with, and its tokenizer, unless that is made of bytes.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">The folder to make; none is made where there is nothing to write.</param>
    public static void Write(CausalLanguageModel model, string folder)
    {
        var tokenizer = model.Tokenizer is ByteTokenizer ? [] : HubTokenizer.FilesOf(model);
        if (model.Origin is null && tokenizer.Count == 0)
        {
            return;
        }

        Directory.CreateDirectory(folder);
        HubTokenizer.Write(folder, tokenizer);
        if (model.Origin is { } origin)
        {
            HubJson.WriteFile(folder, ConfigName, origin.Config);
            origin.Generation.Write(folder);
        }
    }

    /// <summary>Gives a model what <see cref="Write"/> wrote, beside its weights; a tokenizer that was set stays.</summary>
    /// <param name="model">A model of the same options.</param>
    /// <param name="folder">The folder, which need not be there.</param>
    public static void Restore(CausalLanguageModel model, string folder)
    {
        if (!Directory.Exists(folder))
        {
            return;
        }

        var set = model.Tokenizer;
        if (File.Exists(Path.Combine(folder, ConfigName)))
        {
            Read(folder).Origin.AttachTo(model);
        }
        else
        {
            model.Tokenizer = HubTokenizer.Open(folder, model.Options.VocabSize).Tokenizer;
        }

        model.Tokenizer = set is null or ByteTokenizer ? model.Tokenizer ?? set : set;
    }

    /// <summary>Gives a model that was made of these files what they say beside its layers.</summary>
    /// <param name="model">The model.</param>
    public void AttachTo(CausalLanguageModel model) => (model.Origin, model.Tokenizer) = (this, Tokenizer.Tokenizer);
}
