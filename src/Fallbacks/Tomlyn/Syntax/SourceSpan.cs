namespace Tomlyn.Syntax;

// From the first to the last character, both included.
public struct SourceSpan
{
    public string FileName;
    public TextPosition Start;
    public TextPosition End;

    public SourceSpan(string fileName, TextPosition start, TextPosition end)
    {
        FileName = fileName;
        Start = start;
        End = end;
    }

    public int Offset => Start.Offset;

    public int Length => End.Offset - Start.Offset + 1;

    public override string ToString() => $"{FileName}{Start}-{End}";

    public string ToStringSimple() => $"{FileName}{Start}";
}

// All from 0; ToString counts from 1.
public struct TextPosition : IEquatable<TextPosition>
{
    public TextPosition(int offset, int line, int column)
    {
        Offset = offset;
        Line = line;
        Column = column;
    }

    public int Offset { get; set; }

    public int Line { get; set; }

    public int Column { get; set; }

    public override string ToString() => $"({Line + 1},{Column + 1})";

    public bool Equals(TextPosition other) => Offset == other.Offset && Line == other.Line && Column == other.Column;

    public override bool Equals(object? obj) => obj is TextPosition other && Equals(other);

    public override int GetHashCode() => Offset;

    public static bool operator ==(TextPosition left, TextPosition right) => left.Equals(right);

    public static bool operator !=(TextPosition left, TextPosition right) => !left.Equals(right);
}
