using System.Text.Json.Nodes;
using Hybrid.Backbone;
using Hybrid.Checkpoints.HuggingFace.Architectures;
using Hybrid.Modeling;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>What config.json asks for.</summary>
/// <param name="Options">Sizes and layers.</param>
/// <param name="Customise">Adds to the backbone what options cannot state; null adds nothing.</param>
internal sealed record HubModel(LanguageModelOptions Options, Action<BackboneBuilder>? Customise = null);

/// <summary>
/// How one or more model types of the hub become models of this library: fields of config.json to options, names of tensors to names.
/// </summary>
internal abstract class HubArchitecture
{
    private static readonly HubArchitecture[] Known =
    [
        new MambaArchitecture(), new Mamba2Architecture(), new JambaArchitecture(), new LlamaArchitecture(), new BambaArchitecture(),
        new GraniteMoeHybridArchitecture(), new NemotronHArchitecture(), new Qwen3NextArchitecture(), new RecurrentGemmaArchitecture(),
        new RwkvArchitecture(), new FalconH1Architecture(), new Zamba2Architecture(),
    ];

    /// <summary>All model types, sorted.</summary>
    public static IReadOnlyList<string> ModelTypes => [.. Known.SelectMany(known => known.Classes.Keys).Order(StringComparer.Ordinal)];

    /// <summary>The architectures that can write models made here, in the order in which they are tried.</summary>
    public static IEnumerable<HubArchitecture> Exporters => Known.Where(known => known.CanExport);

    /// <summary>Values of "model_type", each with the name of its class in transformers.</summary>
    public abstract IReadOnlyDictionary<string, string> Classes { get; }

    /// <summary>True where <see cref="Export"/> writes models that were made here.</summary>
    public virtual bool CanExport => false;

    /// <summary>The architecture of a model type.</summary>
    /// <exception cref="NotSupportedException">There is none.</exception>
    public static HubArchitecture Find(string path, string modelType) =>
        Known.FirstOrDefault(known => known.Classes.ContainsKey(modelType)) ?? throw new NotSupportedException(
            $"{path}: field 'model_type': expected one of {string.Join(", ", ModelTypes)}; found '{modelType}'.");

    /// <summary>Reads what the model is.</summary>
    /// <exception cref="NotSupportedException">A value is one that this library lacks.</exception>
    /// <exception cref="InvalidDataException">A field is missing or malformed.</exception>
    public abstract HubModel Read(HubConfig config);

    /// <summary>States the names of all tensors.</summary>
    public abstract void Map(WeightMap map);

    /// <summary>The configuration of a model that was made here, without model_type and dtype.</summary>
    /// <exception cref="NotSupportedException">The model is not of this architecture; the message says why.</exception>
    public virtual JsonObject Export(LanguageModelOptions options) => throw new NotSupportedException("it cannot be written from here");
}
