using System.Text.Json;
using Hybrid.Checkpoints;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Infrastructure;

/// <summary>
/// Cases computed by the reference implementations: Golden/ops/OPERATION/CASE.safetensors beside the tests, or in the folder that the
/// environment variable HYBRID_GOLDEN names (with or without the level "ops").
/// </summary>
public static class GoldenCases
{
    /// <summary>The case files of an operation, as theory data.</summary>
    public static TheoryData<string> Of(string operation)
    {
        var files = Directory.GetFiles(Folder(operation), "*.safetensors").Order(StringComparer.Ordinal).ToArray();
        return files.Length == 0
            ? throw new InvalidOperationException($"no golden case in {Folder(operation)}")
            : new TheoryData<string>(files.Select(file => Path.GetFileNameWithoutExtension(file)!));
    }

    /// <summary>The first case of an operation, for a test that needs any.</summary>
    public static GoldenCase First(string operation) =>
        new(Directory.GetFiles(Folder(operation), "*.safetensors").Order(StringComparer.Ordinal).First());

    public static GoldenCase Load(string operation, string name) => new(Path.Combine(Folder(operation), name + ".safetensors"));

    private static string Folder(string operation)
    {
        var root = Environment.GetEnvironmentVariable("HYBRID_GOLDEN") is { Length: > 0 } other
            ? other
            : Path.Combine(AppContext.BaseDirectory, "Golden");
        var nested = Path.Combine(root, "ops", operation);
        return Directory.Exists(nested) ? nested : Path.Combine(root, operation);
    }
}

/// <summary>One case: inputs, results, cotangents and gradients by name, and the flags.</summary>
public sealed class GoldenCase : IDisposable
{
    private readonly SafeTensorsFile file;
    private readonly JsonElement flags;
    private readonly string name;

    public GoldenCase(string path)
    {
        name = Path.GetFileNameWithoutExtension(path);
        file = SafeTensorsFile.Open(path);
        using var document = JsonDocument.Parse(file.Metadata.GetValueOrDefault("flags", "{}"));
        flags = document.RootElement.Clone();
    }

    public IEnumerable<string> Names => file.Names;

    public bool Has(string name) => file.Contains(name);

    public Tensor Get(string name) => file.Read(name);

    public Tensor? Find(string name) => Has(name) ? Get(name) : null;

    public JsonElement? Flag(string name) =>
        flags.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;

    /// <summary>All inputs by name, each a leaf where it is of real numbers.</summary>
    public Dictionary<string, Tensor> Inputs() => Under("in.").ToDictionary(entry => entry.Key, entry => entry.Value.requires_grad_(entry.Value.is_floating_point()));

    /// <summary>Compares the gradients of the inputs with all that the case has.</summary>
    public void CheckGradients(IReadOnlyDictionary<string, Tensor> inputs, double tolerance)
    {
        var gradients = Under("grad.").ToArray();
        Assert.NotEmpty(gradients);
        Assert.All(gradients, entry => TensorAssert.Close(entry.Value, inputs[entry.Key].grad!, tolerance, $"{name} gradient of {entry.Key}"));
    }

    /// <summary>sum over outputs of upstream * output: the loss behind the gradients of a case.</summary>
    public Tensor Loss(params (string Name, Tensor Value)[] outputs)
    {
        Tensor? loss = null;
        foreach (var (name, value) in outputs)
        {
            if (Find("upstream." + name) is { } upstream)
            {
                var term = (upstream * value).sum();
                loss = loss is null ? term : loss + term;
            }
        }

        return loss ?? throw new InvalidOperationException("the case has no cotangent for these outputs");
    }

    public void Dispose() => file.Dispose();

    private IEnumerable<KeyValuePair<string, Tensor>> Under(string prefix) =>
        Names.Where(entry => entry.StartsWith(prefix, StringComparison.Ordinal)).Select(entry => KeyValuePair.Create(entry[prefix.Length..], Get(entry)));
}
