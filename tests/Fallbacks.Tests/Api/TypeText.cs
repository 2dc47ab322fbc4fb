using System.Text;

namespace Fallbacks.Tests.Api;

/// <summary>Cuts up C# type and signature text as it stands in the API lists.</summary>
internal static class TypeText
{
    /// <summary>Splits at a separator, but not inside brackets of any kind.</summary>
    public static List<string> Split(string text, char separator)
    {
        var parts = new List<string>();
        int depth = 0, start = 0;
        for (var i = 0; i < text.Length; i++)
        {
            depth += Depth(text[i]);
            if (depth == 0 && text[i] == separator)
            {
                parts.Add(text[start..i].Trim());
                start = i + 1;
            }
        }

        if (text[start..].Trim() is { Length: > 0 } last)
        {
            parts.Add(last);
        }

        return parts;
    }

    /// <summary>"Type name" -> ("Type", "name"), cut at the last blank outside brackets.</summary>
    public static (string Type, string Name) SplitName(string text)
    {
        var depth = 0;
        for (var i = text.Length - 1; i >= 0; i--)
        {
            depth -= Depth(text[i]);
            if (depth == 0 && text[i] == ' ')
            {
                return (text[..i].Trim(), text[(i + 1)..]);
            }
        }

        return ("", text);
    }

    /// <summary>Where the bracket opens that closes at <paramref name="close"/>.</summary>
    public static int Opening(string text, int close)
    {
        var depth = 0;
        for (var i = close; i >= 0; i--)
        {
            depth -= Depth(text[i]);
            if (depth == 0)
            {
                return i;
            }
        }

        throw new FormatException($"API list: no opening bracket for position {close} of '{text}'.");
    }

    /// <summary>"N.Outer&lt;int, T&gt;.Inner" -> "N.Outer`2.Inner", the name a type is looked up by.</summary>
    public static string Key(string type)
    {
        var key = new StringBuilder();
        for (var i = 0; i < type.Length; i++)
        {
            if (type[i] != '<')
            {
                key.Append(type[i]);
                continue;
            }

            var close = i;
            for (var depth = 0; ;)
            {
                depth += Depth(type[close]);
                if (depth == 0)
                {
                    break;
                }

                close++;
            }

            key.Append('`').Append(Split(type[(i + 1)..close], ',').Count);
            i = close;
        }

        return key.ToString();
    }

    /// <summary>The type arguments of the last segment: "A&lt;X, (Y, Z)&gt;" -> ["X", "(Y, Z)"].</summary>
    public static List<string> Arguments(string type) =>
        type.EndsWith('>') ? Split(type[(Opening(type, type.Length - 1) + 1)..^1], ',') : [];

    /// <summary>
    /// The type without nullable annotations of reference types, which metadata does not tell from plain ones.
    /// <c>T?</c> of a value type is another type and stays.
    /// </summary>
    public static string WithoutAnnotations(string type, Func<string, bool> isValueType)
    {
        var position = 0;
        var result = Read(type, ref position, isValueType);
        return position == type.Length
            ? result
            : throw new FormatException($"API list: '{type}' is not a type from position {position} on.");
    }

    private static string Read(string text, ref int position, Func<string, bool> isValueType)
    {
        var result = new StringBuilder();
        var isValue = false;
        if (text[position] == '(')
        {
            ReadList(text, ref position, ')', result, isValueType);
            isValue = true;
        }
        else
        {
            var start = position;
            while (position < text.Length && (char.IsLetterOrDigit(text[position]) || text[position] is '_' or '.' or '<'))
            {
                if (text[position] == '<')
                {
                    ReadList(text, ref position, '>', result, isValueType);
                }
                else
                {
                    result.Append(text[position++]);
                }
            }

            isValue = isValueType(Key(text[start..position]));
        }

        for (; position < text.Length && text[position] is '?' or '[' or '*'; position++)
        {
            if (text[position] == '[')
            {
                var close = text.IndexOf(']', position);
                result.Append(text, position, close - position + 1);
                position = close;
                isValue = false;
            }
            else if (text[position] == '*' || isValue)
            {
                result.Append(text[position]);
            }
        }

        return result.ToString();
    }

    private static void ReadList(string text, ref int position, char close, StringBuilder result, Func<string, bool> isValueType)
    {
        result.Append(text[position++]);
        while (text[position] != close)
        {
            if (text[position] is ',' or ' ')
            {
                result.Append(text[position++]);
                continue;
            }

            result.Append(Read(text, ref position, isValueType));
            while (text[position] != close && text[position] != ',')
            {
                result.Append(text[position++]);
            }
        }

        result.Append(text[position++]);
    }

    private static int Depth(char c) => c switch
    {
        '(' or '[' or '<' or '{' => 1,
        ')' or ']' or '>' or '}' => -1,
        _ => 0,
    };
}
