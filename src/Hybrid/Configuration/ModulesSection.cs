namespace Hybrid.Configuration;

/// <summary>
/// Reads <c>[modules] active = [...]</c> and a <c>[modules.name]</c> table a module: <c>enabled</c>, <c>hidden_size</c> and that module's
/// own options. Tables of modules that are not active are checked and otherwise left alone.
/// </summary>
internal static class ModulesSection
{
    private const string ActiveKey = "active";
    private const string EnabledKey = "enabled";
    private const string WidthKey = "hidden_size";

    /// <summary>A module as the file states it; <paramref name="Width"/> stands at <paramref name="Place"/>, or would.</summary>
    private sealed record Module(string Name, bool Enabled, long Width, ConfigPlace Place, object Options);

    public static ModuleStackOptions Read(ConfigTable table)
    {
        table.RejectUnknown([ActiveKey, .. MixerRegistry.Names]);
        var tables = table.Keys.Where(key => key != ActiveKey).ToDictionary(name => name, name => ReadModule(table.FindTable(name)!, name));
        var active = ReadActive(table)
            .Select(named => tables.GetValueOrDefault(named.Name) ?? WithDefaults(named.Name, named.Place))
            .Where(module => module.Enabled)
            .ToArray();
        if (active is not [var first, ..])
        {
            throw table.Find(ActiveKey)!.Place.Wrong("at least one enabled module", "none");
        }

        if (Array.Find(active, module => module.Width != first.Width) is { } other)
        {
            throw other.Place.Wrong($"{first.Width}, the hidden_size of '{first.Name}'", $"{other.Width}");
        }

        return new ModuleStackOptions
        {
            HiddenSize = first.Width,
            Active = [.. active.Select(module => new StackedModule(module.Name, module.Options))],
        };
    }

    private static List<(string Name, ConfigPlace Place)> ReadActive(ConfigTable table)
    {
        var entry = table.Find(ActiveKey) ?? throw table.Place.Under(ActiveKey).Wrong("an array of module names", "nothing");
        var names = (string[])ConfigValue.Convert(entry, typeof(IReadOnlyList<string>))!;
        var active = new List<(string Name, ConfigPlace Place)>();
        foreach (var name in names)
        {
            var place = ConfigValue.Element(entry, active.Count).Place;
            HybridConfigReader.Registration(place, name);
            if (active.FindIndex(earlier => earlier.Name == name) is >= 0 and var index)
            {
                throw place.Wrong("each module once", $"\"{name}\"", $"expected each module once; '{name}' is already active[{index}]");
            }

            active.Add((name, place));
        }

        return active;
    }

    private static Module ReadModule(ConfigTable table, string name)
    {
        var enabled = table.Find(EnabledKey) is not { } entry || (bool)ConfigValue.Convert(entry, typeof(bool))!;
        var width = new ModuleStackOptions().HiddenSize;
        if (table.Find(WidthKey) is { } given)
        {
            width = (long)ConfigValue.Convert(given, typeof(long))!;
            if (width < 1)
            {
                throw given.Place.Wrong("at least 1", $"{width}");
            }
        }

        var optionsType = HybridConfigReader.Registration(table.Place, name).OptionsType;
        var options = HybridConfigReader.ReadMixer(table, optionsType, width, EnabledKey);
        return new Module(name, enabled, width, table.Find(WidthKey)?.Place ?? table.Place.Under(WidthKey), options);
    }

    private static Module WithDefaults(string name, ConfigPlace place)
    {
        var width = new ModuleStackOptions().HiddenSize;
        var options = Activator.CreateInstance(HybridConfigReader.Registration(place, name).OptionsType)!;
        var tablePlace = place with { Key = name };
        OptionsBinder.Validate(options, null, tablePlace, width);
        return new Module(name, true, width, tablePlace.Under(WidthKey), options);
    }
}
