using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>
/// JSON as the Python programs of model hubs write it: version 4 of transformers has bare <c>Infinity</c>, <c>-Infinity</c> and <c>NaN</c>,
/// which are no JSON; version 5 has <c>{"__float__": "Infinity"}</c>, which is what this class makes of the bare words.
/// </summary>
internal static class HubJson
{
    private static readonly string[] Specials = ["-Infinity", "Infinity", "NaN"];
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>Reads a file whose content is an object.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The object.</returns>
    /// <exception cref="InvalidDataException">The file is no JSON object, or states a field twice.</exception>
    public static JsonObject Read(string path)
    {
        try
        {
            var content = JsonNode.Parse(WrapSpecials(File.ReadAllText(path))) as JsonObject
                ?? throw new InvalidDataException($"{path}: expected a JSON object; found something else.");
            _ = content.Count;
            return content;
        }
        catch (Exception error) when (error is JsonException or ArgumentException)
        {
            throw new InvalidDataException($"{path}: expected JSON; {error.Message}", error);
        }
    }

    /// <summary>Writes an object as a file, its fields sorted, as transformers writes it.</summary>
    public static void WriteFile(string folder, string name, JsonObject content)
    {
        var sorted = content.OrderBy(field => field.Key, StringComparer.Ordinal).Select(field => KeyValuePair.Create(field.Key, field.Value?.DeepClone()));
        File.WriteAllBytes(Path.Combine(folder, name), Utf8(new JsonObject(sorted)));
    }

    /// <summary>The bytes of an object as a file, its fields in their order.</summary>
    public static byte[] Utf8(JsonObject content) => Encoding.UTF8.GetBytes(content.ToJsonString(Indented) + "\n");

    /// <summary>The number of a special name; null where the name is none.</summary>
    public static double? ParseSpecial(string name) => name switch
    {
        "Infinity" => double.PositiveInfinity,
        "-Infinity" => double.NegativeInfinity,
        "NaN" => double.NaN,
        _ => null,
    };

    private static string WrapSpecials(string text)
    {
        var result = new StringBuilder(text.Length);
        var quoted = false;
        for (var i = 0; i < text.Length; i++)
        {
            if (!quoted && Specials.FirstOrDefault(special => string.CompareOrdinal(text, i, special, 0, special.Length) == 0) is { } found)
            {
                result.Append($$"""{"__float__": "{{found}}"}""");
                i += found.Length - 1;
                continue;
            }

            result.Append(text[i]);
            if (quoted && text[i] == '\\' && i + 1 < text.Length)
            {
                result.Append(text[++i]);
            }
            else if (text[i] == '"')
            {
                quoted = !quoted;
            }
        }

        return result.ToString();
    }
}
