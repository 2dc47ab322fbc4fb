using System.Diagnostics.CodeAnalysis;
using Tomlyn.Model;
using Tomlyn.Parsing;

namespace Tomlyn;

public static class TomlSerializer
{
    private const string Reflection = "Deserializing by type uses reflection.";

    // Like Tomlyn 2, this rejects what is not TOML but not what TOML forbids on top of the grammar: of a key given
    // twice the last value counts, of a table given twice all keys. SyntaxParser.ParseStrict rejects those as well.
    [RequiresUnreferencedCode(Reflection)]
    [RequiresDynamicCode(Reflection)]
    public static T? Deserialize<T>(string toml, TomlSerializerOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(toml);
        if (typeof(T) != typeof(TomlTable))
        {
            throw new NotSupportedException(
                $"TomlSerializer.Deserialize: this stand-in for the Tomlyn package reads {typeof(TomlTable)} only; got {typeof(T)}.");
        }

        options ??= TomlSerializerOptions.Default;
        var reader = new DocumentReader(toml, options.SourceName, options.MetadataStore, validate: false);
        return (T)(object)reader.ReadDocument();
    }
}
