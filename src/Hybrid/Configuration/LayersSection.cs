using Hybrid.Backbone;
using Hybrid.Modeling;

namespace Hybrid.Configuration;

/// <summary>
/// Reads the tables that state layers, <c>[model]</c> and <c>[backbone]</c>: their own keys, and a sub-table for each mixer of the layers,
/// such as <c>[model.mamba]</c>.
/// </summary>
internal static class LayersSection
{
    private const string AttentionLayersKey = "attention_layers";

    public static LanguageModelOptions ReadModel(ConfigTable table)
    {
        var options = (LanguageModelOptions)OptionsBinder.Bind(table, typeof(LanguageModelOptions), alsoKnown: MixerRegistry.Names);
        OptionsBinder.Validate(options, table, table.Place, options.HiddenSize);
        if (HasUnnamedAttention(table))
        {
            options = options with { AttentionLayers = UnnamedAttention(options.NumLayers) };
        }

        RequireNames(table, options.Backbone, options.Layers);
        var pattern = ReadPattern(table, options, options.ResolvePattern);
        return options with { Mixers = ReadMixers(table, pattern, options.HiddenSize, _ => null) };
    }

    public static BackboneOptions ReadBackbone(ConfigTable table)
    {
        var options = (BackboneOptions)OptionsBinder.Bind(table, typeof(BackboneOptions), alsoKnown: MixerRegistry.Names);
        OptionsBinder.Validate(options, table, table.Place, options.HiddenSize);
        if (HasUnnamedAttention(table))
        {
            options = options with { AttentionLayers = UnnamedAttention(options.NumLayers) };
        }

        RequireNames(table, options.Backbone, options.Layers, LayerPattern.CustomName);
        var pattern = ReadPattern(table, options, options.ResolvePattern);
        var shared = new SharedMixerOptions(options, pattern);
        options = options with { Mixers = ReadMixers(table, pattern, options.HiddenSize, shared.Of) };
        try
        {
            new SharedMixerOptions(options, pattern).RequireUse();
        }
        catch (ArgumentException error)
        {
            var key = OptionProperty.SnakeCase(error.ParamName!);
            throw OptionsBinder.Wrong(error, options, table.Find(key)!.Place, table.Find(key)!.Value);
        }

        return options;
    }

    /// <summary>TOML has no null, which stands in code for the layers 3, 7, 11 and so on; here it is "auto".</summary>
    private static bool HasUnnamedAttention(ConfigTable table) => table.Find(AttentionLayersKey) is { Value: ConfigValue.Automatic };

    private static int[] UnnamedAttention(int layers)
    {
        var pattern = LayerPattern.At(layers, null);
        return [.. Enumerable.Range(0, layers).Where(i => pattern.Mixers[i] == LayerPattern.AttentionName)];
    }

    private static void RequireNames(ConfigTable table, string? backbone, IReadOnlyList<string>? layers, params IReadOnlyList<string> alsoKnown)
    {
        if (backbone is not null && !alsoKnown.Contains(backbone))
        {
            HybridConfigReader.Registration(table.Find("backbone")!.Place, backbone);
        }

        for (var i = 0; i < layers?.Count; i++)
        {
            if (!IsWithoutMixer(layers[i]) && !alsoKnown.Contains(layers[i]))
            {
                HybridConfigReader.Registration(ConfigValue.Element(table.Find("layers")!, i).Place, layers[i]);
            }
        }
    }

    private static bool IsWithoutMixer(string name) => name is LayerPattern.MlpName or LayerPattern.ExpertsName;

    private static LayerPattern ReadPattern(ConfigTable table, object options, Func<LayerPattern> resolve)
    {
        try
        {
            return resolve();
        }
        catch (ArgumentException error)
        {
            // The layers are stated in one way, which is then to blame, or in more than one.
            var ways = LayerStatement.Ways.Select(way => table.Find(OptionProperty.SnakeCase(way))).OfType<ConfigEntry>().ToArray();
            throw ways is [var way]
                ? OptionsBinder.Wrong(error, options, way.Place, way.Value)
                : OptionsBinder.Wrong(error, options, table.Place, null);
        }
    }

    /// <summary>Reads the sub-table of each mixer; a mixer without one is checked with the options that it will have.</summary>
    private static Dictionary<string, object> ReadMixers(ConfigTable table, LayerPattern pattern, long width, Func<string, object?> shared)
    {
        var mixers = new Dictionary<string, object>(StringComparer.Ordinal);
        var used = pattern.Mixers.Distinct().ToArray();
        foreach (var name in table.Keys.Intersect(MixerRegistry.Names).Except(used))
        {
            var names = string.Join(", ", used);
            throw table.Find(name)!.Place.Wrong(
                $"a mixer of the layers: {names}", name, $"no layer has this mixer; the layers have {names}");
        }

        foreach (var name in used.Where(name => !LayerPattern.ReservedNames.Contains(name)))
        {
            var optionsType = HybridConfigReader.Registration(table.Place, name).OptionsType;
            if (table.FindTable(name) is { } inner)
            {
                mixers[name] = HybridConfigReader.ReadMixer(inner, optionsType, width);
            }
            else
            {
                OptionsBinder.Validate(shared(name) ?? Activator.CreateInstance(optionsType)!, null, table.Place.Under(name), width);
            }
        }

        return mixers;
    }
}
