using System.Text.Json;

namespace Hybrid.Tokenizers;

/// <summary>A value of a tokenizer file that knows its file and place, for messages.</summary>
/// <param name="path">The file.</param>
/// <param name="place">Where the value is, such as <c>model.merges[3]</c>.</param>
/// <param name="element">The value.</param>
internal readonly struct TokenizerJson(string path, string place, JsonElement element)
{
    /// <summary>The largest id. The limit keeps a wrong one from asking for gigabytes of table.</summary>
    public const int LargestId = (1 << 24) - 1;

    /// <summary>The kind of an object, its field "type"; null where it has none.</summary>
    public string? Type => Optional("type")?.String();

    /// <summary>The place in the file.</summary>
    public string Place => place;

    /// <summary>True for an array.</summary>
    public bool IsArray => element.ValueKind == JsonValueKind.Array;

    /// <summary>True for an object.</summary>
    public bool IsObject => element.ValueKind == JsonValueKind.Object;

    /// <summary>A field; null where it is not there or null.</summary>
    public TokenizerJson? Optional(string name)
    {
        Require(JsonValueKind.Object, "an object");
        return element.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? Child(name, value) : null;
    }

    /// <summary>A field that must be there.</summary>
    public TokenizerJson Required(string name) => Optional(name) ?? throw Error($"a field '{name}'", "none");

    /// <summary>A field that is true or false; false where it is missing.</summary>
    public bool Flag(string name) => Optional(name) is { } field && field.Boolean();

    public IEnumerable<TokenizerJson> Items()
    {
        Require(JsonValueKind.Array, "an array");
        var (file, owner) = (path, place);
        return element.EnumerateArray().Select((value, i) => new TokenizerJson(file, $"{owner}[{i}]", value));
    }

    public IEnumerable<(string Name, TokenizerJson Value)> Fields()
    {
        Require(JsonValueKind.Object, "an object");
        var (file, owner) = (path, place);
        return element.EnumerateObject().Select(field => (field.Name, new TokenizerJson(file, $"{owner}.{field.Name}", field.Value)));
    }

    public string String()
    {
        Require(JsonValueKind.String, "a string");
        return element.GetString()!;
    }

    /// <summary>An id: 0 to <see cref="LargestId"/>.</summary>
    public int Id() => element.ValueKind == JsonValueKind.Number && element.TryGetInt32(out var id) && id is >= 0 and <= LargestId
        ? id
        : throw Error($"an id, 0..{LargestId}", Found());

    public InvalidDataException Error(string expected, string found) => new($"{path}: {place}: expected {expected}; found {found}.");

    /// <summary>The error for what the file may well say, but this library does not do.</summary>
    public NotSupportedException Unsupported(string reason) => new($"{path}: {place}: {reason}.");

    private bool Boolean() => element.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Error("true or false", Found()),
    };

    private TokenizerJson Child(string name, JsonElement value) => new(path, place.Length == 0 ? name : $"{place}.{name}", value);

    private void Require(JsonValueKind kind, string expected)
    {
        if (element.ValueKind != kind)
        {
            throw Error(expected, Found());
        }
    }

    private string Found() => element.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "an array",
        JsonValueKind.String => "a string",
        JsonValueKind.Number => element.GetRawText(),
        _ => element.ValueKind.ToString().ToLowerInvariant(),
    };
}
