using Hybrid.Backbone;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Training;
using Microsoft.Extensions.Logging;

namespace Hybrid.Configuration;

/// <summary>Reads the sections of a configuration.</summary>
internal static class HybridConfigReader
{
    private const string MambaConfigKey = "mamba_config";
    private const string FusedKernelsKey = "use_fused_kernels";
    private const string OldFusedKernelsKey = "use_tpu_optimizations";

    /// <inheritdoc cref="HybridConfig.Parse"/>
    public static HybridConfig Read(string toml, string sourceName, ILogger? logger = null)
    {
        var root = ConfigTable.Parse(toml, sourceName, logger);
        root.RejectUnknown(["model", "training", "modules"]);
        var (model, training, modules) = (root.FindTable("model"), root.FindTable("training"), root.FindTable("modules"));
        if (model is null && modules is null)
        {
            throw root.Place.Wrong("[model] or [modules]", "neither");
        }

        return new HybridConfig
        {
            SourceName = sourceName,
            Model = model is null ? null : ReadModel(model),
            Training = training is null ? null : ReadTraining(training),
            Modules = modules is null ? null : ModulesSection.Read(modules),
        };
    }

    /// <summary>Makes an options record from a file that holds its table alone.</summary>
    public static object ReadTable(string toml, string sourceName, string name, Type optionsType)
    {
        var root = ConfigTable.Parse(toml, sourceName);
        root.RejectUnknown([name]);
        var table = root.FindTable(name) ?? throw root.Place.Wrong($"[{name}]", "nothing");
        var options = OptionsBinder.Bind(table, optionsType);
        OptionsBinder.Validate(options, table, table.Place, width: 0);
        return options;
    }

    /// <summary>Makes the options record of a mixer from its table.</summary>
    public static object ReadMixer(ConfigTable table, Type optionsType, long width, params IEnumerable<string> alsoKnown)
    {
        if (optionsType == typeof(MambaOptions))
        {
            table.Rename(OldFusedKernelsKey, FusedKernelsKey);
        }
        else if (optionsType == typeof(HybridAttentionOptions))
        {
            table.Rename(OldFusedKernelsKey, FusedKernelsKey);
            table.FindTable(MambaConfigKey)?.Rename(OldFusedKernelsKey, FusedKernelsKey);
            table.MoveInto("attention_config", "num_heads");
            table.MoveInto(MambaConfigKey, FusedKernelsKey);
            alsoKnown = [.. alsoKnown, "num_heads", FusedKernelsKey];
        }

        var options = OptionsBinder.Bind(table, optionsType, width, alsoKnown);
        OptionsBinder.Validate(options, table, table.Place, width);
        return options;
    }

    /// <summary>What is registered under the name that an entry gives.</summary>
    public static MixerRegistration Registration(ConfigPlace place, string name)
    {
        if (MixerRegistry.TryGet(name, out var registration))
        {
            return registration;
        }

        var names = MixerRegistry.Names;
        throw place.Wrong(
            $"one of {string.Join(", ", names)}", $"\"{name}\"", $"there is no mixer '{name}'{NearestName.HintOrNames(name, names)}");
    }

    private static TrainingOptions ReadTraining(ConfigTable table)
    {
        var options = (TrainingOptions)OptionsBinder.Bind(table, typeof(TrainingOptions));
        OptionsBinder.Validate(options, table, table.Place, width: 0);
        return options;
    }

    private static LanguageModelOptions ReadModel(ConfigTable table)
    {
        var options = (LanguageModelOptions)OptionsBinder.Bind(table, typeof(LanguageModelOptions), alsoKnown: MixerRegistry.Names);
        OptionsBinder.Validate(options, table, table.Place, options.HiddenSize);
        if (options.Backbone is not null)
        {
            Registration(table.Find("backbone")!.Place, options.Backbone);
        }

        for (var i = 0; i < options.Layers?.Count; i++)
        {
            Registration(ConfigValue.Element(table.Find("layers")!, i).Place, options.Layers[i]);
        }

        return options with { Mixers = ReadMixers(table, ReadPattern(table, options), options.HiddenSize) };
    }

    private static LayerPattern ReadPattern(ConfigTable table, LanguageModelOptions options)
    {
        try
        {
            return options.ResolvePattern();
        }
        catch (ArgumentException error)
        {
            // The layers are stated in one way, which is then to blame, or in more than one.
            ConfigEntry?[] ways = [table.Find("layers"), table.Find("attention_every"), table.Find("attention_layers")];
            throw ways.OfType<ConfigEntry>().ToArray() is [var way]
                ? OptionsBinder.Wrong(error, options, way.Place, way.Value)
                : OptionsBinder.Wrong(error, options, table.Place, null);
        }
    }

    private static Dictionary<string, object> ReadMixers(ConfigTable table, LayerPattern pattern, long width)
    {
        var mixers = new Dictionary<string, object>(StringComparer.Ordinal);
        var used = pattern.Mixers.Distinct().ToArray();
        foreach (var name in table.Keys.Intersect(MixerRegistry.Names).Except(used))
        {
            var names = string.Join(", ", used);
            throw table.Find(name)!.Place.Wrong(
                $"a mixer of the layers: {names}", name, $"no layer has this mixer; the layers have {names}");
        }

        foreach (var name in used)
        {
            var optionsType = Registration(table.Place, name).OptionsType;
            if (table.FindTable(name) is { } inner)
            {
                mixers[name] = ReadMixer(inner, optionsType, width);
            }
            else
            {
                OptionsBinder.Validate(Activator.CreateInstance(optionsType)!, null, table.Place.Under(name), width);
            }
        }

        return mixers;
    }
}
