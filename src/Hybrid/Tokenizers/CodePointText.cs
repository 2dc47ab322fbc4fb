using System.Globalization;
using System.Text;

namespace Hybrid.Tokenizers;

/// <summary>
/// A text for patterns that count code points and know the categories of all of them, as those of the reference library do. .NET's patterns
/// see a character beyond U+FFFF as two surrogates, which are neither letters nor numbers. So each such character is replaced by one
/// of its category from the basic plane, and what a pattern finds is mapped back.
/// </summary>
internal sealed class CodePointText
{
    private readonly string text;
    private readonly int[]? offsets;

    /// <param name="text">Any text without lone surrogates.</param>
    public CodePointText(string text)
    {
        this.text = text;
        if (!text.AsSpan().ContainsAnyInRange('\ud800', '\udfff'))
        {
            Pattern = text;
            return;
        }

        var pattern = new StringBuilder(text.Length);
        var starts = new List<int>(text.Length + 1);
        var place = 0;
        foreach (var rune in text.EnumerateRunes())
        {
            pattern.Append(rune.IsBmp ? (char)rune.Value : StandIn(Rune.GetUnicodeCategory(rune)));
            starts.Add(place);
            place += rune.Utf16SequenceLength;
        }

        starts.Add(place);
        Pattern = pattern.ToString();
        offsets = [.. starts];
    }

    /// <summary>What patterns are matched against: one character a code point.</summary>
    public string Pattern { get; }

    /// <summary>The part of the text that a part of <see cref="Pattern"/> stands for.</summary>
    public string Slice(int start, int length) =>
        offsets is null ? text.Substring(start, length) : text[offsets[start]..offsets[start + length]];

    // Characters that no pattern names one by one.
    private static char StandIn(UnicodeCategory category) => category switch
    {
        UnicodeCategory.UppercaseLetter => '\u0130',
        UnicodeCategory.LowercaseLetter => '\u0138',
        UnicodeCategory.TitlecaseLetter => '\u1f88',
        UnicodeCategory.ModifierLetter => '\u02b0',
        UnicodeCategory.OtherLetter => '\u1681',
        UnicodeCategory.NonSpacingMark => '\u0363',
        UnicodeCategory.SpacingCombiningMark => '\u0903',
        UnicodeCategory.EnclosingMark => '\u0488',
        UnicodeCategory.DecimalDigitNumber => '\u0966',
        UnicodeCategory.LetterNumber => '\u16ee',
        UnicodeCategory.OtherNumber => '\u09f4',
        UnicodeCategory.ConnectorPunctuation => '\u2040',
        UnicodeCategory.DashPunctuation => '\u058a',
        UnicodeCategory.OpenPunctuation => '\u0f3a',
        UnicodeCategory.ClosePunctuation => '\u0f3b',
        UnicodeCategory.OtherPunctuation => '\u055a',
        UnicodeCategory.MathSymbol => '\u2200',
        UnicodeCategory.CurrencySymbol => '\u20a0',
        UnicodeCategory.ModifierSymbol => '\u02c2',
        UnicodeCategory.OtherSymbol => '\u2600',
        UnicodeCategory.Format => '\u2060',
        UnicodeCategory.PrivateUse => '\ue000',
        _ => '\u0378',
    };
}
