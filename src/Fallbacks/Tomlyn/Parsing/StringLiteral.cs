using System.Globalization;
using System.Text;
using Tomlyn.Text;

namespace Tomlyn.Parsing;

// The four kinds of strings: "basic", 'literal', """multi-line""" and '''multi-line literal'''.
internal static class StringLiteral
{
    public static string Read(TextCursor cursor)
    {
        TomlTextPosition start = cursor.Position;
        string quote = cursor.Current == '"' ? "\"" : "'";
        string triple = quote + quote + quote;
        bool isMultiLine = cursor.TryTake(triple);
        if (isMultiLine)
        {
            cursor.TryTakeNewLine();
        }
        else
        {
            cursor.Advance();
        }

        var text = new StringBuilder();
        while (!TryClose(cursor, text, quote, isMultiLine))
        {
            bool isNewLine = cursor.LooksAt("\n") || cursor.LooksAt("\r\n");
            if (cursor.Current == TextCursor.End || (isNewLine && !isMultiLine))
            {
                throw cursor.Error(start, start, $"the string is not closed with {(isMultiLine ? triple : quote)}");
            }

            if (quote == "\"" && cursor.TryTake("\\"))
            {
                ReadEscape(cursor, text, isMultiLine);
                continue;
            }

            TomlTextPosition from = cursor.Position;
            if (!(isNewLine && cursor.TryTakeNewLine()))
            {
                cursor.RefuseControlCharacter("a string");
                cursor.Advance();
            }

            text.Append(cursor.TextFrom(from));
        }

        return text.ToString();
    }

    // In a multi-line string one or two quotes are text, and so are the first two of four or five.
    private static bool TryClose(TextCursor cursor, StringBuilder text, string quote, bool isMultiLine)
    {
        if (!isMultiLine)
        {
            return cursor.TryTake(quote);
        }

        int quotes = 0;
        while (quotes < 5 && cursor.TryTake(quote))
        {
            quotes++;
        }

        text.Insert(text.Length, quote, quotes < 3 ? quotes : quotes - 3);
        return quotes >= 3;
    }

    private static void ReadEscape(TextCursor cursor, StringBuilder text, bool isMultiLine)
    {
        if (isMultiLine && TrySkipLineBreak(cursor))
        {
            return;
        }

        int c = cursor.Current;
        switch (c)
        {
            case 'x':
                text.Append(ReadCodePoint(cursor, digits: 2));
                return;
            case 'u':
                text.Append(ReadCodePoint(cursor, digits: 4));
                return;
            case 'U':
                text.Append(ReadCodePoint(cursor, digits: 8));
                return;
        }

        text.Append(c switch
        {
            'b' => '\b',
            't' => '\t',
            'n' => '\n',
            'f' => '\f',
            'r' => '\r',
            'e' => '\e',
            '"' => '"',
            '\\' => '\\',
            _ => throw cursor.Error(
                $"expected one of b t n f r e \" \\ xHH uHHHH UHHHHHHHH after `\\`; got {cursor.DescribeCurrent()}"),
        });
        cursor.Advance();
    }

    // A `\` at the end of a line takes away all white space up to the next character.
    private static bool TrySkipLineBreak(TextCursor cursor)
    {
        int ahead = 0;
        while (cursor.Peek(ahead) is ' ' or '\t')
        {
            ahead++;
        }

        if (cursor.Peek(ahead) != '\n' && (cursor.Peek(ahead) != '\r' || cursor.Peek(ahead + 1) != '\n'))
        {
            return false;
        }

        do
        {
            cursor.SkipBlanks();
        }
        while (cursor.TryTakeNewLine());

        return true;
    }

    private static string ReadCodePoint(TextCursor cursor, int digits)
    {
        TomlTextPosition letter = cursor.Position;
        cursor.Advance();
        TomlTextPosition start = cursor.Position;
        for (int i = 0; i < digits; i++)
        {
            if (cursor.Current == TextCursor.End || !char.IsAsciiHexDigit((char)cursor.Current))
            {
                throw cursor.Error($"expected {digits} hexadecimal digits in the escape; got {cursor.DescribeCurrent()}");
            }

            cursor.Advance();
        }

        uint value = uint.Parse(cursor.TextFrom(start), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        return Rune.TryCreate(value, out Rune rune)
            ? rune.ToString()
            : throw cursor.Error(letter, cursor.LastPosition, $"U+{value:X4} is not a Unicode scalar value");
    }
}
