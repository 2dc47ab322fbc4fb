using System.Text.Json;
using System.Text.Unicode;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints;

/// <summary>
/// Reads and checks the header of a safetensors file: <c>{"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}</c>
/// with an optional <c>"__metadata__": {"KEY": "TEXT", ...}</c>. Nothing that passes can lead a reader outside of the file, and every byte
/// of the data belongs to exactly one tensor.
/// </summary>
internal ref struct SafeTensorsHeaderReader
{
    /// <summary>The key that is no tensor.</summary>
    public const string MetadataKey = "__metadata__";

    // More dimensions than libtorch can compute with.
    private const int MaxDimensions = 64;

    private readonly string path;
    private readonly long dataLength;
    private readonly List<string> names = [];
    private readonly Dictionary<string, SafeTensorsEntry> entries = [];
    private Dictionary<string, string>? metadata;
    private Utf8JsonReader json;

    private SafeTensorsHeaderReader(string path, ReadOnlySpan<byte> text, long dataLength)
    {
        this.path = path;
        this.dataLength = dataLength;
        json = new Utf8JsonReader(text);
    }

    /// <param name="path">The file, for messages.</param>
    /// <param name="text">The header, padding included.</param>
    /// <param name="dataLength">Bytes of the file after the header.</param>
    public static SafeTensorsHeader Read(string path, ReadOnlySpan<byte> text, long dataLength)
    {
        if (!Utf8.IsValid(text))
        {
            throw new InvalidDataException($"{path}: the header must be UTF-8 text; found bytes that are none.");
        }

        if (text.IsEmpty || text[0] != '{')
        {
            throw new InvalidDataException($"{path}: the header must be a JSON object that begins with '{{'; found {Start(text)}.");
        }

        try
        {
            var reader = new SafeTensorsHeaderReader(path, text, dataLength);
            reader.ReadEntries();
            reader.CheckCoverage();
            return new SafeTensorsHeader(reader.names, reader.entries, reader.metadata ?? []);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            // InvalidOperationException: an escape such as \ud800 that stands for half a character.
            throw new InvalidDataException($"{path}: the header must be JSON: {error.Message}", error);
        }
    }

    private static string Start(ReadOnlySpan<byte> text) => text.IsEmpty ? "nothing" : $"'{(char)text[0]}'";

    private void ReadEntries()
    {
        json.Read();
        while (NextProperty() is { } name)
        {
            if (name == MetadataKey)
            {
                ReadMetadata();
                continue;
            }

            Expect(JsonTokenType.StartObject, $"tensor '{name}'", "an object with dtype, shape and data_offsets");
            if (!entries.TryAdd(name, ReadEntry(name)))
            {
                throw Duplicate(name);
            }

            names.Add(name);
        }

        // Reads what follows the object: only white space may.
        json.Read();
    }

    private void ReadMetadata()
    {
        if (metadata is not null)
        {
            throw Duplicate(MetadataKey);
        }

        metadata = [];
        Expect(JsonTokenType.StartObject, MetadataKey, "an object of strings");
        while (NextProperty() is { } key)
        {
            Expect(JsonTokenType.String, $"{MetadataKey}.{key}", "a string");
            if (!metadata.TryAdd(key, json.GetString()!))
            {
                throw Duplicate($"{MetadataKey}.{key}");
            }
        }
    }

    private SafeTensorsEntry ReadEntry(string name)
    {
        ScalarType? type = null;
        long[]? shape = null;
        long[]? offsets = null;
        while (NextProperty() is { } key)
        {
            var known = key is "dtype" or "shape" or "data_offsets";
            if (known && (key is "dtype" ? type is not null : (key is "shape" ? shape : offsets) is not null))
            {
                throw Error(name, $"'{key}' once", "it twice");
            }

            switch (key)
            {
                case "dtype":
                    type = ReadType(name);
                    break;
                case "shape":
                    shape = ReadNumbers(name, key, MaxDimensions);
                    break;
                case "data_offsets":
                    offsets = ReadNumbers(name, key, 2);
                    break;
                default:
                    // Extensions of the format are not this reader's business.
                    json.Read();
                    json.Skip();
                    break;
            }
        }

        if (type is null || shape is null || offsets is null)
        {
            var missing = type is null ? "dtype" : shape is null ? "shape" : "data_offsets";
            throw Error(name, "dtype, shape and data_offsets", $"no {missing}");
        }

        return Check(name, type.Value, shape, offsets);
    }

    private ScalarType ReadType(string name)
    {
        Expect(JsonTokenType.String, $"tensor '{name}', dtype", "a string");
        var found = json.GetString()!;
        return SafeTensorsType.Parse(found) ?? throw Error(
            name,
            $"a dtype of {SafeTensorsType.Names}",
            found.StartsWith("F8", StringComparison.Ordinal) ? $"'{found}': TorchSharp has no 8-bit floating point" : $"'{found}'");
    }

    private long[] ReadNumbers(string name, string key, int most)
    {
        Expect(JsonTokenType.StartArray, $"tensor '{name}', {key}", "an array of whole numbers");
        var numbers = new List<long>();
        while (json.Read() && json.TokenType != JsonTokenType.EndArray)
        {
            if (json.TokenType != JsonTokenType.Number || !json.TryGetInt64(out var number) || number < 0)
            {
                throw Error(name, $"whole numbers from 0 to {long.MaxValue} in {key}", Found());
            }

            if (numbers.Count == most)
            {
                throw Error(name, $"at most {most} numbers in {key}", "more");
            }

            numbers.Add(number);
        }

        return [.. numbers];
    }

    private readonly SafeTensorsEntry Check(string name, ScalarType type, long[] shape, long[] offsets)
    {
        if (offsets is not [var begin, var end])
        {
            throw Error(name, "two data_offsets, [begin, end]", $"{offsets.Length}");
        }

        if (begin > end || end > dataLength)
        {
            throw Error(name, $"data_offsets with 0 <= begin <= end <= {dataLength}, the bytes after the header", $"[{begin}, {end}]");
        }

        long expected;
        try
        {
            // Strides are products of the sizes, with 1 in place of 0: those must not overflow either.
            expected = checked(shape.Aggregate(1L, (product, size) => checked(product * Math.Max(size, 1))) * SafeTensorsType.Size(type));
        }
        catch (OverflowException)
        {
            throw Error(name, $"a shape of less than 2^63 bytes", $"[{string.Join(", ", shape)}] of {SafeTensorsType.Name(type)}");
        }

        expected = shape.Contains(0) ? 0 : expected;
        if (end - begin != expected)
        {
            throw Error(
                name,
                $"{expected} bytes for {SafeTensorsType.Name(type)} [{string.Join(", ", shape)}]",
                $"{end - begin}, from data_offsets [{begin}, {end}]");
        }

        return new SafeTensorsEntry(type, shape, expected) { Begin = begin };
    }

    private readonly void CheckCoverage()
    {
        var end = 0L;
        foreach (var (name, entry) in entries.OrderBy(pair => pair.Value.Begin).ThenBy(pair => pair.Value.ByteSize))
        {
            if (entry.Begin != end)
            {
                throw Error(
                    name,
                    $"to begin at byte {end} of the data, where the tensor before it ends",
                    $"{entry.Begin}, which {(entry.Begin < end ? "overlaps it" : "leaves a hole")}");
            }

            end += entry.ByteSize;
        }

        if (end != dataLength)
        {
            throw new InvalidDataException(
                $"{path}: expected {end} bytes of data, as the header says; found {dataLength} bytes after the header.");
        }
    }

    private string? NextProperty()
    {
        json.Read();
        return json.TokenType == JsonTokenType.EndObject ? null : json.GetString();
    }

    private void Expect(JsonTokenType token, string owner, string expected)
    {
        json.Read();
        if (json.TokenType != token)
        {
            throw new InvalidDataException($"{path}: {owner}: expected {expected}; found {Found()}.");
        }
    }

    private readonly string Found() => json.TokenType switch
    {
        JsonTokenType.StartObject => "an object",
        JsonTokenType.StartArray => "an array",
        JsonTokenType.String => "a string",
        JsonTokenType.Number => System.Text.Encoding.UTF8.GetString(json.ValueSpan[..Math.Min(json.ValueSpan.Length, 40)]),
        JsonTokenType.True => "true",
        JsonTokenType.False => "false",
        _ => "null",
    };

    private readonly InvalidDataException Duplicate(string name) =>
        new($"{path}: expected each name once in the header; found '{name}' twice.");

    private readonly InvalidDataException Error(string name, string expected, string found) =>
        new($"{path}: tensor '{name}': expected {expected}; found {found}.");
}
