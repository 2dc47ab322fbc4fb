using Hybrid.Mixers;
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
}
