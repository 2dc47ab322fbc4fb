using System.Diagnostics.CodeAnalysis;
using Tomlyn.Syntax;

namespace Tomlyn.Model;

// What is known of the keys of one table, by key.
public class TomlPropertiesMetadata
{
    private readonly Dictionary<string, TomlPropertyMetadata> _properties = [];

    public bool ContainsProperty(string propertyKey) => _properties.ContainsKey(propertyKey);

    public bool TryGetProperty(string propertyKey, [NotNullWhen(true)] out TomlPropertyMetadata? propertyMetadata) =>
        _properties.TryGetValue(propertyKey, out propertyMetadata);

    public void SetProperty(string propertyKey, TomlPropertyMetadata propertyMetadata) =>
        _properties[propertyKey] = propertyMetadata;
}

public class TomlPropertyMetadata
{
    // The key itself, quotes included; of `a.b = 1` or `[a.b]` each part has its own.
    public SourceSpan Span { get; set; }
}
