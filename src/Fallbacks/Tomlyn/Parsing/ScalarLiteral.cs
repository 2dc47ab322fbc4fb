using System.Globalization;
using System.Text.RegularExpressions;
using Tomlyn.Text;

namespace Tomlyn.Parsing;

// Values without delimiters: booleans, integers, floats, dates and times.
internal static partial class ScalarLiteral
{
    private const string Digits = "[0-9](_?[0-9])*";
    private const string Whole = "[+-]?(0|[1-9](_?[0-9])*)";
    private const string Date = "(?<date>[0-9]{4}-[0-9]{2}-[0-9]{2})";
    private const string Time = @"(?<time>[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.(?<fraction>[0-9]+))?)?)";
    private const string Zone = "(?<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})";

    public static object Read(TextCursor cursor)
    {
        TomlTextPosition start = cursor.Position;
        TakeWord(cursor);
        if (DateShape().IsMatch(cursor.TextFrom(start)) && TimeFollows(cursor))
        {
            cursor.Advance();
            TakeWord(cursor);
        }

        string word = cursor.TextFrom(start);
        if (word.Length == 0)
        {
            throw cursor.Error($"expected a value; got {cursor.DescribeCurrent()}");
        }

        return Parse(word) ?? throw cursor.Error(start, cursor.LastPosition, Complaint(word));
    }

    private static void TakeWord(TextCursor cursor)
    {
        while (cursor.Current is not TextCursor.End
            && ((char)cursor.Current is '+' or '-' or '_' or '.' or ':' || char.IsAsciiLetterOrDigit((char)cursor.Current)))
        {
            cursor.Advance();
        }
    }

    // Between date and time a space may stand for the `T`.
    private static bool TimeFollows(TextCursor cursor) =>
        cursor.Current == ' ' && cursor.Peek(1) is >= '0' and <= '9' && cursor.Peek(2) is >= '0' and <= '9' && cursor.Peek(3) == ':';

    // Null: no value of any kind.
    private static object? Parse(string word) => word switch
    {
        "true" => true,
        "false" => false,
        "inf" or "+inf" => double.PositiveInfinity,
        "-inf" => double.NegativeInfinity,
        "nan" or "+nan" or "-nan" => double.NaN,
        _ when WholeNumber().IsMatch(word) => ParseWhole(word),
        _ when FloatNumber().IsMatch(word) => double.Parse(word.Replace("_", ""), CultureInfo.InvariantCulture),
        _ when RadixNumber().IsMatch(word) => ParseRadix(word),
        _ => ParseDateTime(DateTimeValue().Match(word)),
    };

    private static long? ParseWhole(string word) =>
        long.TryParse(word.Replace("_", ""), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value) ? value : null;

    private static long? ParseRadix(string word)
    {
        int radix = word[1] switch { 'x' => 16, 'o' => 8, _ => 2 };
        long value = 0;
        foreach (char c in word[2..].Replace("_", ""))
        {
            if (value > long.MaxValue / radix)
            {
                return null;
            }

            value = value * radix + (char.IsAsciiDigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
        }

        return value;
    }

    private static TomlDateTime? ParseDateTime(Match match)
    {
        string date = match.Groups["date"].Value;
        string time = match.Groups["time"].Value;
        string zone = match.Groups["zone"].Value.ToUpperInvariant();
        string fraction = match.Groups["fraction"].Value;

        // .NET counts in steps of 100 ns: further digits are cut off, as TOML allows.
        int precision = Math.Min(fraction.Length, 7);
        TomlDateTimeKind kind = (date, time, zone) switch
        {
            (_, "", _) => TomlDateTimeKind.LocalDate,
            ("", _, _) => TomlDateTimeKind.LocalTime,
            (_, _, "") => TomlDateTimeKind.LocalDateTime,
            (_, _, "Z") => TomlDateTimeKind.OffsetDateTimeByZ,
            _ => TomlDateTimeKind.OffsetDateTimeByNumber,
        };
        string day = date == "" ? "0001-01-01" : date;
        string clock = time == "" ? "00:00" : time[..^(fraction.Length - precision)];
        string text = $"{day}T{clock}{zone.Replace("Z", "")}";
        return match.Success
            && DateTimeOffset.TryParse(text, CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal, out DateTimeOffset value)
            ? new TomlDateTime(value, precision, kind)
            : null;
    }

    private static string Complaint(string word)
    {
        if (WholeNumber().IsMatch(word) || RadixNumber().IsMatch(word))
        {
            return $"the integer `{word}` does not fit into 64 bits";
        }

        if (DateTimeValue().IsMatch(word))
        {
            return $"`{word}` is no date or time of the calendar";
        }

        return char.IsAsciiLetter(word[0])
            ? $"expected a value; got `{word}` (strings need quotes, booleans are `true` and `false`)"
            : $"`{word}` is not a number, date or time";
    }

    [GeneratedRegex($@"^{Date}\z")]
    private static partial Regex DateShape();

    [GeneratedRegex($@"^{Whole}\z")]
    private static partial Regex WholeNumber();

    [GeneratedRegex($@"^{Whole}(\.{Digits})?([eE][+-]?{Digits})?\z")]
    private static partial Regex FloatNumber();

    [GeneratedRegex(@"^0(x[0-9A-Fa-f](_?[0-9A-Fa-f])*|o[0-7](_?[0-7])*|b[01](_?[01])*)\z")]
    private static partial Regex RadixNumber();

    [GeneratedRegex($@"^({Date}([Tt ]{Time}{Zone}?)?|{Time})\z")]
    private static partial Regex DateTimeValue();
}
