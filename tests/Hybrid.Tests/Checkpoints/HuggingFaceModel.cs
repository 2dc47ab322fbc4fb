using System.Text.Json.Nodes;
using Hybrid.Checkpoints;
using Hybrid.Modeling;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>
/// A model folder as transformers wrote it, with what transformers computed: Golden/models/NAME beside the tests, or in the folder that
/// the environment variable HYBRID_GOLDEN names (with or without the level "models").
/// </summary>
public sealed class HuggingFaceModel : IDisposable
{
    private const double LogitsTolerance = 1e-4;
    private readonly SafeTensorsFile golden;
    private readonly string goldenFolder;

    public HuggingFaceModel(string name)
        : this(Root, name)
    {
    }

    private HuggingFaceModel(string root, string name)
    {
        Folder = Path.Combine(root, name);

        // The sharded copy of a model has no results of its own.
        goldenFolder = File.Exists(Path.Combine(Folder, "golden.safetensors")) ? Folder : Path.Combine(root, name[..name.LastIndexOf('_')]);
        golden = SafeTensorsFile.Open(Path.Combine(goldenFolder, "golden.safetensors"));
        Config = ReadJson(Path.Combine(Folder, "config.json"));
        Ids = golden.Read("input_ids").to_type(ScalarType.Int64).DetachFromDisposeScope();
    }

    public string Folder { get; }

    public JsonObject Config { get; }

    /// <summary>Token ids [B, L].</summary>
    public Tensor Ids { get; }

    /// <summary>Whether the reference computed in bfloat16, whose only exact results here are those of float32 arithmetic.</summary>
    public bool IsHalf => golden.Contains("logits_f32_math");

    /// <summary>1e-4, or three times the reference's own distance from float64 where that is more.</summary>
    public double Tolerance => IsHalf
        ? LogitsTolerance
        : Math.Max(LogitsTolerance, 3 * (double)ReadJson(Path.Combine(goldenFolder, "info.json"))["max_abs_diff_f32_vs_f64_logits"]!);

    private static string OwnRoot => Path.Combine(AppContext.BaseDirectory, "Golden", "models");

    private static string Root
    {
        get
        {
            var root = Environment.GetEnvironmentVariable("HYBRID_GOLDEN") is { Length: > 0 } other ? other : OwnRoot;
            var nested = Path.Combine(root, "models");
            return Directory.Exists(nested) ? nested : root;
        }
    }

    /// <summary>A folder of the repository's own set, for tests that know its sizes.</summary>
    public static HuggingFaceModel Own(string name) => new(OwnRoot, name);

    /// <summary>All folders, as theory data.</summary>
    public static TheoryData<string> All() => Of(_ => true);

    /// <summary>Folders with certain files or results.</summary>
    public static TheoryData<string> Of(Func<string, bool> condition)
    {
        var names = Directory.GetDirectories(Root).Where(folder => File.Exists(Path.Combine(folder, "config.json"))).Select(Path.GetFileName).OfType<string>()
            .Where(condition).Order(StringComparer.Ordinal).ToArray();
        return names.Length == 0 ? throw new InvalidOperationException($"no golden model in {Root}") : new TheoryData<string>(names);
    }

    public static bool HasFile(string name, string file) => File.Exists(Path.Combine(Root, name, file));

    public CausalLanguageModel Load() => CausalLanguageModel.FromPretrained(Folder, dtype: "float32");

    public bool Has(string name) => golden.Contains(name);

    public Tensor Get(string name) => golden.Read(name);

    public Tensor Logits() => Get(IsHalf ? "logits_f32_math" : "logits");

    public JsonObject Json(string file) => ReadJson(Path.Combine(File.Exists(Path.Combine(Folder, file)) ? Folder : goldenFolder, file));

    public void Dispose()
    {
        golden.Dispose();
        Ids.Dispose();
    }

    private static JsonObject ReadJson(string path) => (JsonObject)JsonNode.Parse(File.ReadAllText(path))!;
}
