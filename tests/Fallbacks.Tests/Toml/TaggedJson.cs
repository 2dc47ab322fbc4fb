using System.Globalization;
using System.Text.Json;
using Tomlyn;
using Tomlyn.Model;

namespace Fallbacks.Tests.Toml;

/// <summary>Compares a parsed document with toml-test's expected value: JSON whose leaves are <c>{"type": ..., "value": ...}</c>.</summary>
internal static class TaggedJson
{
    /// <returns>The differences, each with its path; empty when there are none.</returns>
    public static List<string> Differences(JsonElement expected, object? actual)
    {
        List<string> differences = [];
        Compare(expected, actual, "$", differences);
        return differences;
    }

    private static void Compare(JsonElement expected, object? actual, string path, List<string> differences)
    {
        if (expected.ValueKind == JsonValueKind.Array)
        {
            CompareArray(expected, actual, path, differences);
        }
        else if (IsLeaf(expected))
        {
            string type = expected.GetProperty("type").GetString()!;
            string value = expected.GetProperty("value").GetString()!;
            if (!LeafEquals(type, value, actual))
            {
                differences.Add($"{path}: expected {type} {value}; got {actual?.GetType().Name} {actual}");
            }
        }
        else
        {
            CompareTable(expected, actual, path, differences);
        }
    }

    // A table may itself have keys named type and value, but those are tables, not strings.
    private static bool IsLeaf(JsonElement element) =>
        element.EnumerateObject().Count() == 2
        && element.TryGetProperty("type", out JsonElement type) && type.ValueKind == JsonValueKind.String
        && element.TryGetProperty("value", out JsonElement value) && value.ValueKind == JsonValueKind.String;

    private static void CompareArray(JsonElement expected, object? actual, string path, List<string> differences)
    {
        object?[]? items = actual switch
        {
            TomlArray array => [.. array],
            TomlTableArray tables => [.. tables],
            _ => null,
        };
        if (items?.Length != expected.GetArrayLength())
        {
            string got = items is null ? $"{actual?.GetType().Name} {actual}" : $"{items.Length} items";
            differences.Add($"{path}: expected {expected.GetArrayLength()} items; got {got}");
            return;
        }

        for (int i = 0; i < items.Length; i++)
        {
            Compare(expected[i], items[i], $"{path}[{i}]", differences);
        }
    }

    private static void CompareTable(JsonElement expected, object? actual, string path, List<string> differences)
    {
        if (actual is not TomlTable table)
        {
            differences.Add($"{path}: expected a table; got {actual?.GetType().Name} {actual}");
            return;
        }

        differences.AddRange(table.Keys.Where(key => !expected.TryGetProperty(key, out _)).Select(key => $"{path}.{key}: unexpected"));
        foreach (JsonProperty property in expected.EnumerateObject())
        {
            if (table.TryGetValue(property.Name, out object? value))
            {
                Compare(property.Value, value, $"{path}.{property.Name}", differences);
            }
            else
            {
                differences.Add($"{path}.{property.Name}: missing");
            }
        }
    }

    private static bool LeafEquals(string type, string expected, object? actual) => (type, actual) switch
    {
        ("string", string text) => text == expected,
        ("bool", bool flag) => (flag ? "true" : "false") == expected,
        ("integer", long number) => number.ToString(CultureInfo.InvariantCulture) == expected,
        ("float", double number) => number.Equals(ParseFloat(expected)),
        ("datetime", TomlDateTime { Kind: TomlDateTimeKind.OffsetDateTimeByZ or TomlDateTimeKind.OffsetDateTimeByNumber } time) =>
            time.DateTime == DateTimeOffset.Parse(expected, CultureInfo.InvariantCulture),
        ("datetime-local", TomlDateTime { Kind: TomlDateTimeKind.LocalDateTime } time) =>
            time.DateTime.DateTime == DateTime.Parse(expected, CultureInfo.InvariantCulture),
        ("date-local", TomlDateTime { Kind: TomlDateTimeKind.LocalDate } time) =>
            DateOnly.FromDateTime(time.DateTime.DateTime) == DateOnly.Parse(expected, CultureInfo.InvariantCulture),
        ("time-local", TomlDateTime { Kind: TomlDateTimeKind.LocalTime } time) =>
            TimeOnly.FromDateTime(time.DateTime.DateTime) == TimeOnly.Parse(expected, CultureInfo.InvariantCulture),
        _ => false,
    };

    private static double ParseFloat(string text) => text switch
    {
        "inf" or "+inf" => double.PositiveInfinity,
        "-inf" => double.NegativeInfinity,
        "nan" => double.NaN,
        _ => double.Parse(text, CultureInfo.InvariantCulture),
    };
}
