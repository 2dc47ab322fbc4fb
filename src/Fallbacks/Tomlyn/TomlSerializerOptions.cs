using Tomlyn.Serialization;

namespace Tomlyn;

public sealed record TomlSerializerOptions
{
    public static TomlSerializerOptions Default { get; } = new();

    // A file name for errors and spans.
    public string? SourceName { get; init; }

    // Where the place of each key is written down; nowhere when null.
    public ITomlMetadataStore? MetadataStore { get; init; }
}
