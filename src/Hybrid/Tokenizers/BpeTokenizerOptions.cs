namespace Hybrid.Tokenizers;

/// <summary>How a <see cref="BpeTokenizer"/> treats its special tokens. The defaults are those of the reference library.</summary>
public sealed record BpeTokenizerOptions
{
    /// <summary>
    /// Adds the tokens that the file's post-processor puts around a text, such as Llama 3's <c>&lt;|begin_of_text|&gt;</c>. Default true.
    /// </summary>
    public bool AddSpecialTokens { get; init; } = true;

    /// <summary>
    /// Takes the name of a special token in a text for the token. False reads it as plain text, which is the safe choice where others
    /// write the text. Default true.
    /// </summary>
    public bool ParseSpecialTokens { get; init; } = true;

    /// <summary>Leaves special tokens out of decoded text. Default true.</summary>
    public bool SkipSpecialTokens { get; init; } = true;

    /// <summary>
    /// Number of ids of a model whose embedding is wider than the file has tokens: those without a token are no error then, but decode to
    /// nothing. At least 1; null, the default, means that each id must be that of a token.
    /// </summary>
    public int? PaddedVocabSize { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate() => OptionRange.AtLeast(nameof(BpeTokenizerOptions), nameof(PaddedVocabSize), PaddedVocabSize ?? 1, 1);
}
