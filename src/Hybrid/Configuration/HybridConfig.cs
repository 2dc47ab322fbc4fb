using Hybrid.Backbone;
using Hybrid.Modeling;
using Hybrid.Training;
using Microsoft.Extensions.Logging;

namespace Hybrid.Configuration;

/// <summary>
/// A configuration in TOML: <c>[model]</c> describes a language model, <c>[training]</c> a run that trains it, <c>[backbone]</c> a stack
/// of layers without a vocabulary, <c>[modules]</c> a stack of named modules. The options are the records that the constructors take. Two configurations are equal where their TOML is; where
/// they came from does not count.
/// </summary>
public sealed record HybridConfig
{
    /// <summary>The file, or the source name that was given in its place; error texts begin with it.</summary>
    public string SourceName { get; init; } = "configuration";

    /// <summary>The language model; null where there is no [model].</summary>
    public LanguageModelOptions? Model { get; init; }

    /// <summary>The training run; null where there is no [training].</summary>
    public TrainingOptions? Training { get; init; }

    /// <summary>The backbone; null where there is no [backbone].</summary>
    public BackboneOptions? Backbone { get; init; }

    /// <summary>The stack of modules; null where there is no [modules].</summary>
    public ModuleStackOptions? Modules { get; init; }

    /// <summary>Reads a file.</summary>
    /// <param name="path">The file, in UTF-8.</param>
    /// <param name="logger">Receives warnings, of old names for example; null means nobody.</param>
    /// <returns>The configuration, validated.</returns>
    /// <exception cref="HybridConfigException">The file is not TOML, or a key or a value in it is wrong.</exception>
    /// <exception cref="IOException">The file cannot be read.</exception>
    public static HybridConfig Load(string path, ILogger? logger = null) => Parse(File.ReadAllText(path), path, logger);

    /// <summary>Reads a text.</summary>
    /// <param name="toml">The text; it must hold [model], [backbone] or [modules].</param>
    /// <param name="sourceName">What error texts call it.</param>
    /// <param name="logger">Receives warnings, of old names for example; null means nobody.</param>
    /// <returns>The configuration, validated.</returns>
    /// <exception cref="HybridConfigException">The text is not TOML, or a key or a value in it is wrong.</exception>
    public static HybridConfig Parse(string toml, string sourceName = "configuration", ILogger? logger = null) =>
        HybridConfigReader.Read(toml, sourceName, logger);

    /// <summary>
    /// The configuration in TOML, defaults written out, so that <see cref="Parse"/> gives an equal one. Properties of options records of
    /// your own that TOML cannot state are left out.
    /// </summary>
    /// <returns>The text.</returns>
    public string ToToml() => HybridConfigWriter.Write(this);

    /// <inheritdoc/>
    public bool Equals(HybridConfig? other) => other is not null && ToToml() == other.ToToml();

    /// <inheritdoc/>
    public override int GetHashCode() => ToToml().GetHashCode(StringComparison.Ordinal);
}
