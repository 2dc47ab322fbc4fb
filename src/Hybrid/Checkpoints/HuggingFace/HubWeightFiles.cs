using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>The tensors of a folder: of model.safetensors, or of the files that model.safetensors.index.json names.</summary>
internal sealed class HubWeightFiles : IDisposable
{
    /// <summary>Name of the only file.</summary>
    public const string SingleName = "model.safetensors";

    /// <summary>Name of the index of several files.</summary>
    public const string IndexName = "model.safetensors.index.json";

    private const int MostShown = 5;
    private readonly string folder;
    private readonly Dictionary<string, SafeTensorsFile> files = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> places = new(StringComparer.Ordinal);

    private HubWeightFiles(string folder) => this.folder = folder;

    /// <summary>Names of the tensors.</summary>
    public IReadOnlyCollection<string> Names => places.Keys;

    /// <summary>Opens the files of a folder; only their headers are read.</summary>
    /// <exception cref="FileNotFoundException">The folder has neither the file nor the index, or lacks a file of the index.</exception>
    /// <exception cref="InvalidDataException">The index is malformed, or the files hold other tensors than it says.</exception>
    public static HubWeightFiles Open(string folder)
    {
        var result = new HubWeightFiles(folder);
        try
        {
            var index = Path.Combine(folder, IndexName);
            if (File.Exists(Path.Combine(folder, SingleName)))
            {
                result.Add(SingleName);
            }
            else if (File.Exists(index))
            {
                result.AddIndexed(index);
            }
            else
            {
                throw new FileNotFoundException($"{folder}: expected {SingleName} or {IndexName}; found neither.");
            }

            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <summary>What a header says of a tensor.</summary>
    public SafeTensorsEntry Entry(string name) => FileOf(name).Entry(name);

    /// <summary>The file that has a tensor.</summary>
    public SafeTensorsFile FileOf(string name) => files[places[name]];

    /// <summary>Numbers in all tensors together.</summary>
    public long Count => Names.Sum(name => Entry(name).Shape.Aggregate(1L, (product, size) => product * size));

    /// <summary>Throws unless the files have just the tensors of a table, in their shapes.</summary>
    /// <param name="map">The table.</param>
    /// <returns>Each tensor of the table with its name in the files.</returns>
    public IReadOnlyList<(HubTensor Tensor, string Name)> Match(WeightMap map)
    {
        var found = map.Aliases.Where(alias => places.ContainsKey(alias.Key)).ToDictionary(alias => alias.Value, alias => alias.Key);
        var pairs = map.Tensors.Select(tensor => (Tensor: tensor, Name: found.GetValueOrDefault(tensor.Name, tensor.Name))).ToArray();
        var expected = pairs.Select(pair => pair.Name).ToHashSet();
        var problems = pairs.Select(pair => Problem(pair.Tensor, pair.Name)).OfType<string>()
            .Concat(places.Keys.Where(name => !expected.Contains(name) && !IsRedundant(name, map))
                .Select(name => $"tensor '{name}': expected none of this name; found one"))
            .ToArray();
        if (problems.Length > 0)
        {
            var more = problems.Length > MostShown ? $"; and {problems.Length - MostShown} more" : "";
            throw new InvalidDataException($"{folder}: {string.Join("; ", problems.Take(MostShown))}{more}.");
        }

        return pairs;
    }

    /// <summary>Closes the files.</summary>
    public void Dispose()
    {
        foreach (var file in files.Values)
        {
            file.Dispose();
        }
    }

    private string? Problem(HubTensor tensor, string name)
    {
        var shape = string.Join(", ", tensor.Shape());
        if (!places.ContainsKey(name))
        {
            return $"tensor '{name}': expected [{shape}]; found no tensor of this name";
        }

        var entry = Entry(name);
        var isFloating = entry.Type is ScalarType.Float64 or ScalarType.Float32 or ScalarType.Float16 or ScalarType.BFloat16;
        return isFloating && shape == string.Join(", ", entry.Shape)
            ? null
            : $"tensor '{name}': expected floating-point [{shape}]; found {SafeTensorsType.Name(entry.Type)} [{string.Join(", ", entry.Shape)}]";
    }

    /// <summary>A copy of the embedding that some files keep for a tied head, or rotary frequencies, which follow from the configuration.</summary>
    private bool IsRedundant(string name, WeightMap map)
    {
        if (name.EndsWith(".rotary_emb.inv_freq", StringComparison.Ordinal))
        {
            return true;
        }

        if (name != "lm_head.weight" || !map.Model.Options.TieEmbeddings)
        {
            return false;
        }

        using var scope = NewDisposeScope();
        var embedding = places.Keys.FirstOrDefault(other => other.EndsWith("embed_tokens.weight", StringComparison.Ordinal)
            || other.EndsWith("embeddings.weight", StringComparison.Ordinal) || other.EndsWith("embedding.weight", StringComparison.Ordinal));
        return embedding is not null && Entry(name).Shape.SequenceEqual(Entry(embedding).Shape) && FileOf(name).Read(name).eq(FileOf(embedding).Read(embedding)).all().ToBoolean();
    }

    private void AddIndexed(string index)
    {
        if (HubJson.Read(index)["weight_map"] is not JsonObject map)
        {
            throw new InvalidDataException($"{index}: expected an object 'weight_map'; found none.");
        }

        var stated = map.ToDictionary(entry => entry.Key, entry => FileName(index, entry.Key, entry.Value));
        foreach (var name in stated.Values.Distinct())
        {
            Add(name);
        }

        var wrong = stated.FirstOrDefault(entry => places.GetValueOrDefault(entry.Key) != entry.Value);
        if (wrong.Key is not null)
        {
            throw new InvalidDataException(
                $"{index}: expected tensor '{wrong.Key}' in {wrong.Value}; found it in {places.GetValueOrDefault(wrong.Key) ?? "none of the files"}.");
        }
    }

    // A name with a path in it could read any file of the machine.
    private static string FileName(string index, string tensor, JsonNode? node) =>
        node is JsonValue value && value.TryGetValue<string>(out var name) && name.Length > 0 && name.AsSpan().IndexOfAny('/', '\\', ':') < 0
            && name is not ("." or "..")
            ? name
            : throw new InvalidDataException(
                $"{index}: tensor '{tensor}': expected the name of a file beside the index; found {node?.ToJsonString() ?? "null"}.");

    private void Add(string name)
    {
        var path = Path.Combine(folder, name);
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"{folder}: expected the file {name}; there is none.", path);
        }

        var file = SafeTensorsFile.Open(path);
        files.Add(name, file);
        foreach (var tensor in file.Names)
        {
            if (!places.TryAdd(tensor, name))
            {
                throw new InvalidDataException($"{folder}: tensor '{tensor}': expected in one file; found in {places[tensor]} and {name}.");
            }
        }
    }
}
