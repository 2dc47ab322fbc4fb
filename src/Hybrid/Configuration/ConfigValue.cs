using Hybrid.Layers;
using Tomlyn.Model;

namespace Hybrid.Configuration;

/// <summary>Turns TOML values into those of option records. Integers do where a number is expected; nothing else is converted.</summary>
internal static class ConfigValue
{
    /// <summary>What stands for null where an option may be left to the library: <c>dt_rank = "auto"</c>.</summary>
    public const string Automatic = "auto";

    /// <summary>The value of an entry as a type that <see cref="OptionProperty.IsValue"/> knows.</summary>
    /// <returns>The value; null only for "auto" at a number or a list that may be null.</returns>
    /// <exception cref="HybridConfigException">The value is of another kind or too large.</exception>
    public static object? Convert(ConfigEntry entry, Type type)
    {
        if (entry.Value is Automatic && (Nullable.GetUnderlyingType(type) ?? OptionProperty.ElementOf(type)) is not null)
        {
            return null;
        }

        if (OptionProperty.ElementOf(type) is not { } elementType)
        {
            return ConvertScalar(entry, Nullable.GetUnderlyingType(type) ?? type);
        }

        if (entry.Value is not TomlArray items)
        {
            throw Wrong(entry, "an array");
        }

        var array = Array.CreateInstance(elementType, items.Count);
        for (var i = 0; i < items.Count; i++)
        {
            array.SetValue(ConvertScalar(Element(entry, i), elementType), i);
        }

        return array;
    }

    /// <summary>Element i of an array, under the name <c>key[i]</c>.</summary>
    public static ConfigEntry Element(ConfigEntry array, int i) =>
        new(array.Place with { Key = $"{array.Place.Key}[{i}]" }, ((TomlArray)array.Value)[i]!);

    /// <summary>A value in an error text.</summary>
    public static string Describe(object? value) => value switch
    {
        string or bool or long or int or double or Enum => TomlLiteral.Of(value),
        ConfigTable or TomlTable => "a table",
        TomlTableArray => "an array of tables",
        TomlArray => "an array",
        null => "nothing",
        _ => "a date or time",
    };

    private static object ConvertScalar(ConfigEntry entry, Type type) => entry.Value switch
    {
        long integer when type == typeof(long) => integer,
        long integer when type == typeof(int) => integer is >= int.MinValue and <= int.MaxValue
            ? (int)integer
            : throw Wrong(entry, $"an integer of {int.MinValue}..{int.MaxValue}"),
        long integer when type == typeof(double) => (double)integer,
        double number when type == typeof(double) => number,
        bool flag when type == typeof(bool) => flag,
        string text when type == typeof(string) => text,
        string text when type.IsEnum => ConvertEnum(entry, text, type),
        _ => throw Wrong(entry, Expected(type)),
    };

    private static object ConvertEnum(ConfigEntry entry, string text, Type type)
    {
        if (type == typeof(Activation) && text == "swish")
        {
            return Activation.Silu;
        }

        var names = Enum.GetNames(type).Select(name => OptionProperty.MemberName(type, name)).ToArray();
        if (Array.IndexOf(names, text) is >= 0 and var i)
        {
            return Enum.GetValues(type).GetValue(i)!;
        }

        var expected = Expected(type);
        var hint = NearestName.Hint(text, names);
        throw entry.Place.Wrong(expected, Describe(text), $"expected {expected}; found {Describe(text)}{hint}");
    }

    private static HybridConfigException Wrong(ConfigEntry entry, string expected) => entry.Place.Wrong(expected, Describe(entry.Value));

    private static string Expected(Type type) =>
        type == typeof(long) || type == typeof(int) ? "an integer"
        : type == typeof(double) ? "a number"
        : type == typeof(bool) ? "true or false"
        : type == typeof(string) ? "a string"
        : $"one of {string.Join(", ", Enum.GetValues(type).Cast<object>().Select(Describe))}";
}
