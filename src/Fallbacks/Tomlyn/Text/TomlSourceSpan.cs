namespace Tomlyn.Text;

// From the first to the last character, both included.
public readonly struct TomlSourceSpan
{
    public TomlSourceSpan(string sourceName, TomlTextPosition start, TomlTextPosition end)
    {
        SourceName = sourceName;
        Start = start;
        End = end;
    }

    public string SourceName { get; }

    public TomlTextPosition Start { get; }

    public TomlTextPosition End { get; }

    public int Offset => Start.Offset;

    public int Length => End.Offset - Start.Offset + 1;

    public override string ToString() => $"{SourceName}{Start}-{End}";

    public string ToStringSimple() => $"{SourceName}{Start}";
}

// All from 0; ToString counts from 1. Columns count code points, offsets UTF-16 units.
public readonly struct TomlTextPosition : IEquatable<TomlTextPosition>
{
    public TomlTextPosition(int offset, int line, int column)
    {
        Offset = offset;
        Line = line;
        Column = column;
    }

    public int Offset { get; }

    public int Line { get; }

    public int Column { get; }

    public override string ToString() => $"({Line + 1},{Column + 1})";

    public bool Equals(TomlTextPosition other) => Offset == other.Offset && Line == other.Line && Column == other.Column;

    public override bool Equals(object? obj) => obj is TomlTextPosition other && Equals(other);

    public override int GetHashCode() => Offset;

    public static bool operator ==(TomlTextPosition left, TomlTextPosition right) => left.Equals(right);

    public static bool operator !=(TomlTextPosition left, TomlTextPosition right) => !left.Equals(right);
}
