using System.Text;
using System.Text.RegularExpressions;

namespace Hybrid.Tokenizers;

/// <summary>A token that is found in the text before anything else, as a whole.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Content">Its text.</param>
/// <param name="Special">It marks structure and is no text.</param>
/// <param name="StripLeft">It takes the white space before it along.</param>
/// <param name="StripRight">It takes the white space after it along.</param>
/// <param name="SingleWord">It is not found inside of a word.</param>
internal sealed record AddedToken(int Id, string Content, bool Special, bool StripLeft, bool StripRight, bool SingleWord);

/// <summary>Cuts a text at the added tokens: the leftmost first, the longest where two begin together.</summary>
internal sealed class AddedTokens
{
    private readonly Dictionary<string, AddedToken> byContent;
    private readonly Regex? pattern;

    /// <param name="tokens">The tokens; each content once.</param>
    public AddedTokens(IEnumerable<AddedToken> tokens)
    {
        byContent = tokens.ToDictionary(token => token.Content);
        if (byContent.Count > 0)
        {
            var alternatives = byContent.Keys.OrderByDescending(content => content.Length).ThenBy(content => content, StringComparer.Ordinal);
            pattern = new Regex(string.Join('|', alternatives.Select(Regex.Escape)), RegexOptions.CultureInvariant);
        }
    }

    /// <summary>The parts of a text, in order: an added token, or text between two of them, never empty.</summary>
    /// <param name="text">Any text.</param>
    /// <returns>Token or text, the other null.</returns>
    public IEnumerable<(AddedToken? Token, string? Text)> Split(string text)
    {
        var end = 0;
        for (var match = pattern?.Match(text) ?? Match.Empty; match.Success; match = match.NextMatch())
        {
            var token = byContent[match.Value];
            var (from, to) = (match.Index, match.Index + match.Length);
            if (from < end || (token.SingleWord && (EndsInWord(text.AsSpan(0, from)) || BeginsInWord(text.AsSpan(to)))))
            {
                continue;
            }

            from = token.StripLeft ? Math.Max(end, text.AsSpan(0, from).TrimEnd().Length) : from;
            to = token.StripRight ? text.Length - text.AsSpan(to).TrimStart().Length : to;
            if (from > end)
            {
                yield return (null, text[end..from]);
            }

            yield return (token, null);
            end = to;
        }

        if (end < text.Length)
        {
            yield return (null, text[end..]);
        }
    }

    private static bool EndsInWord(ReadOnlySpan<char> before) =>
        Rune.DecodeLastFromUtf16(before, out var rune, out _) == System.Buffers.OperationStatus.Done && IsWord(rune);

    private static bool BeginsInWord(ReadOnlySpan<char> after) =>
        Rune.DecodeFromUtf16(after, out var rune, out _) == System.Buffers.OperationStatus.Done && IsWord(rune);

    private static bool IsWord(Rune rune) => Rune.IsLetterOrDigit(rune) || rune.Value == '_';
}
