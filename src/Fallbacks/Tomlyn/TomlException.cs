using Tomlyn.Text;

namespace Tomlyn;

public sealed class TomlException : Exception
{
    public TomlException(TomlSourceSpan span, string message)
        : base($"{span.ToStringSimple()} : error : {message}")
    {
        Span = span;
    }

    public TomlSourceSpan? Span { get; }

    public string? SourceName => Span?.SourceName;

    // From 1, unlike the positions in a span.
    public int? Line => Span?.Start.Line + 1;

    public int? Column => Span?.Start.Column + 1;

    public int? Offset => Span?.Offset;
}
