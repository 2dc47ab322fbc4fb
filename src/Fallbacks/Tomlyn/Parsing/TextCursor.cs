using System.Text;
using Tomlyn.Text;

namespace Tomlyn.Parsing;

// A place in the text that moves forward and knows its line and column.
internal sealed class TextCursor
{
    public const int End = -1;

    private readonly string _text;
    private readonly string _sourceName;
    private int _offset;
    private int _line;
    private int _column;

    public TextCursor(string text, string? sourceName)
    {
        _text = text.StartsWith('\uFEFF') ? text[1..] : text;
        _sourceName = sourceName ?? "";
    }

    public TomlTextPosition Position => new(_offset, _line, _column);

    // Where the last character passed over stands.
    public TomlTextPosition LastPosition { get; private set; }

    public int Current => Peek(0);

    public int Peek(int ahead) => _offset + ahead < _text.Length ? _text[_offset + ahead] : End;

    public bool LooksAt(string expected) => string.CompareOrdinal(_text, _offset, expected, 0, expected.Length) == 0;

    public string TextFrom(TomlTextPosition start) => _text[start.Offset.._offset];

    // Passes over one code point. U+FFFD is what decoders put in place of bytes that are no UTF-8, so it is refused too.
    public void Advance()
    {
        LastPosition = Position;
        char c = _text[_offset];
        bool isPair = char.IsHighSurrogate(c) && Peek(1) is var low and not End && char.IsLowSurrogate((char)low);
        if (c == '\uFFFD' || (char.IsSurrogate(c) && !isPair))
        {
            throw Error("the text holds a character that is not valid Unicode; is the file UTF-8?");
        }

        _offset += isPair ? 2 : 1;
        _column++;
        if (c == '\n')
        {
            _line++;
            _column = 0;
        }
    }

    public void Advance(int count)
    {
        for (int i = 0; i < count; i++)
        {
            Advance();
        }
    }

    public bool TryTake(string expected)
    {
        bool found = LooksAt(expected);
        if (found)
        {
            Advance(expected.Length);
        }

        return found;
    }

    public void Expect(string expected, string purpose)
    {
        if (!TryTake(expected))
        {
            throw Error($"expected `{expected}` {purpose}; got {DescribeCurrent()}");
        }
    }

    public void SkipBlanks()
    {
        while (Current is ' ' or '\t')
        {
            Advance();
        }
    }

    // Everything that may stand between the items of an array or inline table.
    public void SkipBlanksCommentsAndLines()
    {
        do
        {
            SkipBlanks();
            SkipComment();
        }
        while (TryTakeNewLine());
    }

    public bool TryTakeNewLine() => TryTake("\n") || TryTake("\r\n");

    // What may follow a key and value or a header.
    public void ExpectEndOfLine(string after)
    {
        SkipBlanks();
        SkipComment();
        if (Current != End && !TryTakeNewLine())
        {
            throw Error($"expected the end of the line after {after}; got {DescribeCurrent()}");
        }
    }

    public void SkipComment()
    {
        if (Current != '#')
        {
            return;
        }

        while (Current != End && !LooksAt("\n") && !LooksAt("\r\n"))
        {
            RefuseControlCharacter("a comment");
            Advance();
        }
    }

    public void RefuseControlCharacter(string where)
    {
        if (Current is (>= 0 and < ' ' and not '\t') or 0x7F)
        {
            throw Error($"{DescribeCurrent()} may not stand in {where}");
        }
    }

    public string DescribeCurrent() => Current switch
    {
        End => "the end of the file",
        '\n' => "the end of the line",
        '\r' when Peek(1) == '\n' => "the end of the line",
        < ' ' or (>= 0x7F and < 0xA0) or 0xFEFF => $"the control character U+{Current:X4}",
        _ => Rune.TryGetRuneAt(_text, _offset, out Rune rune) ? $"`{rune}`" : $"U+{Current:X4}",
    };

    public TomlException Error(string message) => Error(Position, Position, message);

    public TomlException Error(TomlTextPosition start, TomlTextPosition end, string message) =>
        new(new TomlSourceSpan(_sourceName, start, end), message);
}
