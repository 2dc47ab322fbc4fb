using System.Reflection;
using System.Text.RegularExpressions;

namespace Hybrid.Configuration;

/// <summary>Makes option records from tables, and turns what their validation throws into errors of the file.</summary>
internal static partial class OptionsBinder
{
    private const string WidthKey = "hidden_size";

    /// <summary>Makes a record from a table and its sub-tables. Keys that are not given keep their defaults.</summary>
    /// <param name="table">The table.</param>
    /// <param name="record">Type of the record; it has a parameterless constructor.</param>
    /// <param name="width">Where given, the table and its sub-tables may repeat hidden_size, which must be this.</param>
    /// <param name="alsoKnown">Keys of the table that the caller reads.</param>
    /// <returns>The record, not validated yet.</returns>
    /// <exception cref="HybridConfigException">A key is unknown or a value is of the wrong kind.</exception>
    public static object Bind(ConfigTable table, Type record, long? width = null, params IEnumerable<string> alsoKnown)
    {
        var properties = OptionProperty.Of(record);
        table.RejectUnknown([.. properties.Select(property => property.Key), .. alsoKnown, .. width is null ? [] : new[] { WidthKey }]);
        if (width is { } expected && table.Find(WidthKey) is { } entry)
        {
            var found = (long)ConfigValue.Convert(entry, typeof(long))!;
            if (found != expected)
            {
                throw entry.Place.Wrong($"{expected}, the hidden_size around it", $"{found}");
            }
        }

        var options = Activator.CreateInstance(record)!;
        foreach (var property in properties)
        {
            if (property.IsRecord && table.FindTable(property.Key) is { } inner)
            {
                property.Set(options, Bind(inner, property.Type, width));
            }
            else if (!property.IsRecord && table.Find(property.Key) is { } value)
            {
                property.Set(options, ConfigValue.Convert(value, property.Type));
            }
        }

        return options;
    }

    /// <summary>Calls <c>Validate()</c> or <c>Validate(width)</c> of a record and of the records in it, where they have one.</summary>
    /// <param name="options">The record.</param>
    /// <param name="table">The table it was made from; null where it has its defaults.</param>
    /// <param name="place">The place of errors that no key of the table is to blame for.</param>
    /// <param name="width">Model width.</param>
    /// <exception cref="HybridConfigException">A value is out of its range.</exception>
    public static void Validate(object options, ConfigTable? table, ConfigPlace place, long width)
    {
        var properties = OptionProperty.Of(options.GetType());
        foreach (var property in properties.Where(property => property.IsRecord))
        {
            if (property.Get(options) is { } inner)
            {
                var innerTable = table?.FindTable(property.Key);
                Validate(inner, innerTable, innerTable?.Place ?? place.Under(property.Key), width);
            }
        }

        const BindingFlags Direct = BindingFlags.DoNotWrapExceptions;
        try
        {
            var type = options.GetType();
            type.GetMethod("Validate", [])?.Invoke(options, Direct, null, null, null);
            type.GetMethod("Validate", [typeof(long)])?.Invoke(options, Direct, null, [width], null);
        }
        catch (ArgumentException error)
        {
            var culprit = properties.FirstOrDefault(property => property.Name == error.ParamName);
            throw culprit is null
                ? Wrong(error, options, place, null)
                : Wrong(error, options, table?.Find(culprit.Key)?.Place ?? place.Under(culprit.Key), culprit.Get(options));
        }
    }

    /// <summary>
    /// The error of the file for what a record throws: "MambaOptions.DState must be at least 1; got 0." at d_state becomes
    /// "expected at least 1; found 0". Sentences about something else than the key stay, with the names of TOML.
    /// </summary>
    public static HybridConfigException Wrong(ArgumentException error, object options, ConfigPlace place, object? value)
    {
        var keys = OptionProperty.Of(options.GetType()).ToDictionary(property => property.Name, property => property.Key);
        var text = Owner().Replace(error.Message.Split(" (Parameter '", 2)[0], "").TrimEnd('.');
        text = Word().Replace(text, word => keys.GetValueOrDefault(word.Value, word.Value));

        var rule = Rule().Match(text);
        var isOfTheKey = rule.Groups["subject"].Value == place.Key?.Split('.')[^1];
        return rule.Success
            ? place.Wrong(rule.Groups["expected"].Value, rule.Groups["found"].Value, isOfTheKey ? null : text, error)
            : place.Wrong(text, ConfigValue.Describe(value), text, error);
    }

    [GeneratedRegex(@"^[A-Z]\w*(: |\.)")]
    private static partial Regex Owner();

    [GeneratedRegex(@"\b[A-Z]\w*\b")]
    private static partial Regex Word();

    [GeneratedRegex("^((?<subject>.+?) must be )?(?<expected>.+); got (?<found>.+)$", RegexOptions.ExplicitCapture)]
    private static partial Regex Rule();
}
