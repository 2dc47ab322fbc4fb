namespace Hybrid.Modeling;

/// <summary>How text is continued.</summary>
public sealed record GenerationOptions
{
    /// <summary>Tokens to generate at most; 0 or more. Generation also ends where the sequence reaches the model's max_seq_len. Default 256.</summary>
    public int MaxNewTokens { get; init; } = 256;

    /// <summary>Divides the logits; 0 is greedy. Default 1.</summary>
    public double Temperature { get; init; } = 1;

    /// <summary>Draws from the k most likely tokens; 0, the default, from all.</summary>
    public int TopK { get; init; }

    /// <summary>Draws from the smallest set of tokens whose mass is at least p, above 0 up to 1. Default 1.</summary>
    public double TopP { get; init; } = 1;

    /// <summary>
    /// Keeps of the tokens that top-k and top-p left those at least p times as likely as the likeliest (Nguyen et al., arXiv 2407.01082),
    /// 0..1. 0, the default, keeps all.
    /// </summary>
    public double MinP { get; init; }

    /// <summary>
    /// Divides positive logits of tokens that occurred already and multiplies negative ones, once a distinct token; positive. Default 1.
    /// </summary>
    public double RepetitionPenalty { get; init; } = 1;

    /// <summary>Seed of the draws; null means a different one each time.</summary>
    public int? Seed { get; init; }

    /// <summary>Tokens that end the text; they are not returned.</summary>
    public IReadOnlyCollection<int> StopTokens { get; init; } = [];

    /// <summary>
    /// Texts that end the text as soon as one of them is complete, across tokens too; they are not returned. They need a tokenizer: a
    /// <see cref="TokenGenerator"/> refuses them. Default none.
    /// </summary>
    public IReadOnlyCollection<string> StopStrings { get; init; } = [];

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(GenerationOptions), nameof(MaxNewTokens), MaxNewTokens, 0);
        OptionRange.AtLeast(nameof(GenerationOptions), nameof(Temperature), Temperature, 0);
        OptionRange.AtLeast(nameof(GenerationOptions), nameof(TopK), TopK, 0);
        OptionRange.Positive(nameof(GenerationOptions), nameof(TopP), TopP);
        OptionRange.Between(nameof(GenerationOptions), nameof(TopP), TopP, 0, 1);
        OptionRange.Between(nameof(GenerationOptions), nameof(MinP), MinP, 0, 1);
        OptionRange.Positive(nameof(GenerationOptions), nameof(RepetitionPenalty), RepetitionPenalty);
        if (StopStrings.Any(string.IsNullOrEmpty))
        {
            throw new ArgumentException($"{nameof(GenerationOptions)}.{nameof(StopStrings)} must not be empty texts; got one.", nameof(StopStrings));
        }
    }
}
