using System.Text.Json.Nodes;
using Hybrid.Layers;
using Hybrid.Modeling;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>Loads and saves models in the folder layout of model hubs.</summary>
internal static class PretrainedFolder
{
    // What other libraries look for before they read weights of PyTorch's layout.
    private static readonly Dictionary<string, string> Metadata = new() { ["format"] = "pt" };

    /// <summary>See <see cref="CausalLanguageModel.FromPretrained"/>.</summary>
    public static CausalLanguageModel Load(string folder, string deviceName, string dtypeName)
    {
        var place = Folder(folder, [HubOrigin.ConfigName]).Find();
        var (origin, described) = HubOrigin.Read(place);
        using var files = HubWeightFiles.Open(place);
        var (device, dtype) = (torch.device(deviceName), ParseType(dtypeName) ?? TypeOf(folder, files));
        using var allowance = new WeightAllowance(files.Count, dtype, device);
        var model = Make(described, Path.Combine(place, HubOrigin.ConfigName), module => Place(module, device, dtype));
        try
        {
            Fill(model, origin.Architecture, files);
            origin.AttachTo(model);
            model.eval();
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>See <see cref="CausalLanguageModel.SavePretrained"/>.</summary>
    public static void Save(CausalLanguageModel model, string folder, long maxShardSize)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maxShardSize, 1);
        using var scope = NewDisposeScope();
        var (architecture, config) = Describe(model);
        config["dtype"] = TypeName(model.Type);
        config.Remove("torch_dtype");
        var map = new WeightMap(model);
        architecture.Map(map);
        var shards = Shards(map.Tensors, maxShardSize);
        string[] names = [.. shards.Select(shard => shard.Name), HubWeightFiles.IndexName, HubGeneration.FileName, HubOrigin.ConfigName];
        var tokenizer = HubTokenizer.FilesOf(model);
        Folder(folder, names).Replace(target =>
        {
            foreach (var (name, tensors) in shards)
            {
                using var inner = NewDisposeScope();
                SafeTensorsFile.Write(Path.Combine(target, name), tensors.Select(tensor => (tensor.Name, tensor.Value())), Metadata);
            }

            if (shards.Count > 1)
            {
                HubJson.WriteFile(target, HubWeightFiles.IndexName, Index(shards));
            }

            if (tokenizer.Count > 0)
            {
                HubTokenizer.Write(target, tokenizer);
            }
            else
            {
                HubTokenizer.Copy(folder, target);
            }

            HubJson.WriteFile(target, HubGeneration.FileName, HubGeneration.For(model, config));
            HubJson.WriteFile(target, HubOrigin.ConfigName, config);
        });
    }

    /// <summary>Makes the model of a configuration, without its weights.</summary>
    internal static CausalLanguageModel Make(HubModel described, string path, Action<nn.Module> place)
    {
        var placed = new List<nn.Module>();
        try
        {
            return new CausalLanguageModel(described.Options, described.Customise, Place);
        }
        catch (Exception error)
        {
            placed.ForEach(module => module.Dispose());
            WeightAllowance.Current?.Abandon();
            throw error is ArgumentException ? new InvalidDataException($"{path}: the sizes do not make a model: {error.Message}", error) : error;
        }

        void Place(nn.Module module)
        {
            placed.Add(module);
            place(module);
        }
    }

    // The last file is written last and marks the folder as complete.
    private static CheckpointFolder Folder(string folder, IReadOnlyList<string> files) => new(folder, files, IsOwnName);

    private static bool IsOwnName(string name) =>
        name is HubOrigin.ConfigName or HubGeneration.FileName or HubWeightFiles.IndexName or HubWeightFiles.SingleName
        || HubTokenizer.FileNames.Contains(name) || (name.StartsWith("model-", StringComparison.Ordinal) && name.EndsWith(".safetensors", StringComparison.Ordinal));

    private static void Place(nn.Module module, Device device, ScalarType dtype)
    {
        if (dtype != ScalarType.Float32 || device.type != DeviceType.CPU)
        {
            module.to(device, dtype);
        }
    }

    private static void Fill(CausalLanguageModel model, HubArchitecture architecture, HubWeightFiles files)
    {
        using var scope = NewDisposeScope();
        var map = new WeightMap(model);
        architecture.Map(map);
        foreach (var (tensor, name) in files.Match(map))
        {
            tensor.Fill(files.FileOf(name), name);
        }
    }

    private static (HubArchitecture Architecture, JsonObject Config) Describe(CausalLanguageModel model)
    {
        if (model.Origin is { } origin)
        {
            return (origin.Architecture, (JsonObject)origin.Config.DeepClone());
        }

        var reasons = new List<string>();
        foreach (var architecture in HubArchitecture.Exporters)
        {
            try
            {
                return (architecture, HubExport.Write(architecture, model.Options));
            }
            catch (NotSupportedException reason)
            {
                reasons.Add($"{architecture.Classes.Keys.First()}: {reason.Message}");
            }
        }

        throw new NotSupportedException($"CausalLanguageModel: no model type of the hub has such layers; {string.Join("; ", reasons)}.");
    }

    private static List<(string Name, IReadOnlyList<HubTensor> Tensors)> Shards(IReadOnlyList<HubTensor> tensors, long maxSize)
    {
        var shards = new List<List<HubTensor>> { new() };
        var size = 0L;
        foreach (var tensor in tensors)
        {
            var bytes = ByteSize(tensor);
            if (size > 0 && size + bytes > maxSize)
            {
                shards.Add([]);
                size = 0;
            }

            shards[^1].Add(tensor);
            size += bytes;
        }

        return shards.Count == 1
            ? [(HubWeightFiles.SingleName, shards[0])]
            : [.. shards.Select((shard, i) => ($"model-{i + 1:D5}-of-{shards.Count:D5}.safetensors", (IReadOnlyList<HubTensor>)shard))];
    }

    private static JsonObject Index(IEnumerable<(string Name, IReadOnlyList<HubTensor> Tensors)> shards)
    {
        var entries = shards.SelectMany(shard => shard.Tensors.Select(tensor => (tensor, shard.Name))).ToArray();
        return new JsonObject
        {
            ["metadata"] = new JsonObject
            {
                ["total_parameters"] = entries.Sum(entry => entry.tensor.Shape().Aggregate(1L, (product, size) => product * size)),
                ["total_size"] = entries.Sum(entry => ByteSize(entry.tensor)),
            },
            ["weight_map"] = new JsonObject(entries.OrderBy(entry => entry.tensor.Name, StringComparer.Ordinal)
                .Select(entry => KeyValuePair.Create(entry.tensor.Name, (JsonNode?)entry.Name))),
        };
    }

    private static long ByteSize(HubTensor tensor)
    {
        using var scope = NewDisposeScope();
        return tensor.Parts().Sum(part => part.numel() * part.element_size());
    }

    /// <summary>The type of the largest tensor: some files keep small ones in a wider type.</summary>
    private static ScalarType TypeOf(string folder, HubWeightFiles files)
    {
        var type = files.Names.Select(files.Entry).MaxBy(entry => entry.ByteSize)?.Type ?? ScalarType.Float32;
        return type is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float64
            ? type
            : throw new NotSupportedException(
                $"{folder}: the weights are {SafeTensorsType.Name(type)}, in which no layer computes; choose dtype float32 or bfloat16.");
    }

    private static ScalarType? ParseType(string name) => name switch
    {
        "auto" => null,
        "float32" => ScalarType.Float32,
        "bfloat16" => ScalarType.BFloat16,
        _ => throw new ArgumentException($"CausalLanguageModel: dtype must be auto, float32 or bfloat16; got '{name}'.", "dtype"),
    };

    private static string TypeName(ScalarType type) => type switch
    {
        ScalarType.Float64 => "float64",
        ScalarType.Float32 => "float32",
        ScalarType.Float16 => "float16",
        ScalarType.BFloat16 => "bfloat16",
        _ => throw new NotSupportedException($"CausalLanguageModel: weights of {type} have no name in config.json."),
    };
}
