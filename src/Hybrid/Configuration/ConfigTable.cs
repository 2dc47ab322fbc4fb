using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Tomlyn;
using Tomlyn.Model;
using Tomlyn.Parsing;
using Tomlyn.Serialization;

namespace Hybrid.Configuration;

/// <summary>A value of a TOML file and where its key stands: a <see cref="ConfigTable"/>, or what Tomlyn reads.</summary>
internal sealed record ConfigEntry(ConfigPlace Place, object Value);

/// <summary>A TOML table whose keys know where they stand.</summary>
internal sealed partial class ConfigTable
{
    private readonly OrderedDictionary<string, ConfigEntry> entries = [];
    private readonly ILogger logger;

    private ConfigTable(ConfigPlace place, ILogger logger) => (Place, this.logger) = (place, logger);

    /// <summary>Where the name of the table stands.</summary>
    public ConfigPlace Place { get; }

    /// <summary>All keys, in the order of the file.</summary>
    public IEnumerable<string> Keys => entries.Keys;

    /// <summary>Reads a file's text.</summary>
    /// <exception cref="HybridConfigException">The text is not TOML.</exception>
    public static ConfigTable Parse(string toml, string file, ILogger? logger = null)
    {
        try
        {
            // The deserialiser takes the last of two values under one key; the syntax parser refuses the second.
            SyntaxParser.ParseStrict(toml, file);
            var places = new TomlMetadataStore();
            var options = new TomlSerializerOptions { SourceName = file, MetadataStore = places };
            return Read(TomlSerializer.Deserialize<TomlTable>(toml, options)!, new ConfigPlace(file, "", null, 1, 1), places, logger ?? NullLogger.Instance);
        }
        catch (TomlException error)
        {
            var problem = Problem(error);
            throw new ConfigPlace(file, "", null, error.Line ?? 1, error.Column ?? 1)
                .Wrong("TOML", problem, $"this is not TOML: {problem}", error);
        }
    }

    /// <summary>The entry of a key; null where the key is not given.</summary>
    public ConfigEntry? Find(string key) => entries.GetValueOrDefault(key);

    /// <summary>The table under a key; null where the key is not given.</summary>
    /// <exception cref="HybridConfigException">There is something else under it.</exception>
    public ConfigTable? FindTable(string key) =>
        Find(key) switch
        {
            null => null,
            { Value: ConfigTable table } => table,
            var entry => throw entry.Place.Wrong("a table", ConfigValue.Describe(entry.Value)),
        };

    /// <summary>Throws at the first key that is not among the known ones.</summary>
    /// <exception cref="HybridConfigException">A key is unknown.</exception>
    public void RejectUnknown(IReadOnlyCollection<string> known)
    {
        foreach (var (key, entry) in entries)
        {
            if (!known.Contains(key))
            {
                var names = known.Distinct().Order(StringComparer.Ordinal).ToArray();
                var kind = entry.Value is ConfigTable ? "table" : "key";
                throw entry.Place.Wrong($"one of {string.Join(", ", names)}", key, $"unknown {kind}{NearestName.HintOrNames(key, names)}");
            }
        }
    }

    /// <summary>Lets a key stand for the same key of a sub-table, which wins where it has that key too.</summary>
    public void MoveInto(string subTable, string key)
    {
        if (entries.Remove(key, out var entry))
        {
            if (FindTable(subTable) is not { } target)
            {
                target = new ConfigTable(Place with { Table = Place.Under(subTable).Path }, logger);
                entries.Add(subTable, new ConfigEntry(Place.Under(subTable), target));
            }

            target.entries.TryAdd(key, entry);
        }
    }

    /// <summary>Reads a key under its old name as the new one, with a warning in the log.</summary>
    /// <exception cref="HybridConfigException">Both names are given.</exception>
    public void Rename(string oldKey, string newKey)
    {
        if (!entries.TryGetValue(oldKey, out var entry))
        {
            return;
        }

        if (entries.ContainsKey(newKey))
        {
            throw entry.Place.Wrong($"{newKey} alone", oldKey, $"{oldKey} is the old name of {newKey}, which is given too");
        }

        entries.Remove(oldKey);
        entries.Add(newKey, entry with { Place = entry.Place with { Key = newKey } });
        LogOldName(logger, entry.Place, oldKey, newKey);
    }

    private static ConfigTable Read(TomlTable source, ConfigPlace place, TomlMetadataStore places, ILogger logger)
    {
        var table = new ConfigTable(place, logger);
        places.TryGetProperties(source, out var metadata);
        foreach (var (key, value) in source)
        {
            var keyPlace = place.Under(key);
            if (metadata is not null && metadata.TryGetProperty(key, out var property) && property is { Span: { FileName: not null } span })
            {
                keyPlace = keyPlace with { Line = span.Start.Line + 1, Column = span.Start.Column + 1 };
            }

            var read = value is TomlTable inner ? Read(inner, keyPlace with { Table = keyPlace.Path, Key = null }, places, logger) : value;
            table.entries.Add(key, new ConfigEntry(keyPlace, read));
        }

        return table;
    }

    /// <summary>The first error of a Tomlyn exception, without the place, which is told apart.</summary>
    private static string Problem(TomlException error)
    {
        const string Separator = " : error : ";
        var first = error.Message.Split('\n', 2)[0].Trim();
        var start = first.IndexOf(Separator, StringComparison.Ordinal);
        return start < 0 ? first : first[(start + Separator.Length)..];
    }

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Place}: {OldKey} is an old name; write {NewKey}")]
    private static partial void LogOldName(ILogger logger, ConfigPlace place, string oldKey, string newKey);
}
