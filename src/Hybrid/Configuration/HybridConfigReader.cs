using Hybrid.Routing;
using Hybrid.Training;

namespace Hybrid.Configuration;

/// <summary>Reads the sections of a configuration.</summary>
internal static class HybridConfigReader
{
    /// <inheritdoc cref="HybridConfig.Parse"/>
    public static HybridConfig Read(string toml, string sourceName)
    {
        var root = ConfigTable.Parse(toml, sourceName);
        root.RejectUnknown(["model", "training", "backbone", "modules"]);
        var (model, training) = (root.FindTable("model"), root.FindTable("training"));
        var (backbone, modules) = (root.FindTable("backbone"), root.FindTable("modules"));
        if (model is null && backbone is null && modules is null)
        {
            throw root.Place.Wrong("[model], [backbone] or [modules]", "none of them");
        }

        return new HybridConfig
        {
            SourceName = sourceName,
            Model = model is null ? null : LayersSection.ReadModel(model),
            Training = training is null ? null : ReadTraining(training),
            Backbone = backbone is null ? null : LayersSection.ReadBackbone(backbone),
            Modules = modules is null ? null : ModulesSection.Read(modules),
        };
    }

    /// <summary>Makes the options record of a mixer from its table.</summary>
    public static object ReadMixer(ConfigTable table, Type optionsType, long width, params IEnumerable<string> alsoKnown)
    {
        if (optionsType == typeof(HybridAttentionOptions))
        {
            table.MoveInto("attention_config", "num_heads");
            alsoKnown = [.. alsoKnown, "num_heads"];
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
}
