using Tomlyn.Syntax;

namespace Tomlyn.Parsing;

public static class SyntaxParser
{
    public static DocumentSyntax ParseStrict(string toml, string? sourceName = null, bool validate = true)
    {
        ArgumentNullException.ThrowIfNull(toml);
        new DocumentReader(toml, sourceName, store: null, validate).ReadDocument();
        return new DocumentSyntax();
    }
}
