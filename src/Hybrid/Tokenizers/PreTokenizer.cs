using System.Text.RegularExpressions;

namespace Hybrid.Tokenizers;

/// <summary>Cuts a text into the words that merges stay within. Each step cuts the words of the step before.</summary>
/// <param name="steps">The steps, in order.</param>
internal sealed class PreTokenizer(IReadOnlyList<PreTokenizer.Step> steps)
{
    /// <summary>The pattern of GPT-2, which the kind ByteLevel uses.</summary>
    public const string Gpt2Pattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// <summary>The words of a text, in order.</summary>
    /// <param name="text">A text without lone surrogates; not empty.</param>
    /// <returns>The words, none empty.</returns>
    public IEnumerable<string> Split(string text) =>
        steps.Aggregate<Step, IEnumerable<string>>([text], (words, step) => words.SelectMany(step.Cut));

    /// <summary>One cut.</summary>
    /// <param name="Pattern">What is a word; what lies between two matches is one too. Null cuts nothing.</param>
    /// <param name="MatchesOnly">Drops what lies between two matches.</param>
    /// <param name="AddPrefixSpace">Puts a space before a text that begins with none.</param>
    internal sealed record Step(Regex? Pattern, bool MatchesOnly = false, bool AddPrefixSpace = false)
    {
        public IEnumerable<string> Cut(string text)
        {
            text = AddPrefixSpace && text[0] != ' ' ? " " + text : text;
            return Pattern is null ? [text] : CutAtMatches(new CodePointText(text), Pattern);
        }

        private IEnumerable<string> CutAtMatches(CodePointText text, Regex pattern)
        {
            var end = 0;
            for (var match = pattern.Match(text.Pattern); match.Success; match = match.NextMatch())
            {
                if (match.Index > end && !MatchesOnly)
                {
                    yield return text.Slice(end, match.Index - end);
                }

                if (match.Length > 0)
                {
                    yield return text.Slice(match.Index, match.Length);
                }

                end = match.Index + match.Length;
            }

            if (end < text.Pattern.Length && !MatchesOnly)
            {
                yield return text.Slice(end, text.Pattern.Length - end);
            }
        }
    }
}
