using System.Collections;
using System.Globalization;
using System.Text;

namespace Hybrid.Configuration;

/// <summary>Values as TOML writes them.</summary>
internal static class TomlLiteral
{
    /// <summary>A string, boolean, number, enum (see <see cref="OptionProperty.MemberName"/>), or a list of them.</summary>
    public static string Of(object value) => value switch
    {
        string words => Quote(words),
        bool flag => flag ? "true" : "false",
        double number => Float(number),
        Enum member => Quote(OptionProperty.MemberName(member.GetType(), member.ToString())),
        IEnumerable items => $"[{string.Join(", ", items.Cast<object>().Select(Of))}]",
        _ => Convert.ToString(value, CultureInfo.InvariantCulture)!,
    };

    /// <summary>The shortest text that reads back as the same number; a point or an exponent makes it a TOML float.</summary>
    private static string Float(double number)
    {
        var digits = number.ToString("R", CultureInfo.InvariantCulture);
        return double.IsNaN(number) ? "nan"
            : double.IsInfinity(number) ? number > 0 ? "inf" : "-inf"
            : digits.AsSpan().ContainsAny('.', 'E') ? digits : digits + ".0";
    }

    private static string Quote(string words)
    {
        var quoted = new StringBuilder("\"");
        foreach (var c in words)
        {
            quoted.Append(c switch
            {
                '"' or '\\' => $"\\{c}",
                < ' ' or '\x7f' => $"\\u{(int)c:X4}",
                _ => $"{c}",
            });
        }

        return quoted.Append('"').ToString();
    }
}
