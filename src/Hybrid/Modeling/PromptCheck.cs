namespace Hybrid.Modeling;

/// <summary>What every generator asks of a prompt before it computes anything.</summary>
internal static class PromptCheck
{
    /// <summary>Throws where a prompt is empty, does not fit the model, or has ids outside the vocabulary.</summary>
    /// <param name="owner">Who asks, for messages.</param>
    /// <param name="model">The model.</param>
    /// <param name="prompt">The ids.</param>
    /// <param name="before">Tokens of the sequence before the prompt.</param>
    public static void Require(string owner, CausalLanguageModel model, IReadOnlyList<int> prompt, long before = 0)
    {
        if (prompt.Count == 0)
        {
            throw new ArgumentException($"{owner}: the prompt must have at least one token; got none.", nameof(prompt));
        }

        var total = before + prompt.Count;
        if (total > model.Options.MaxSeqLen)
        {
            throw new ArgumentException(
                $"{owner}: the sequence would have {total} tokens; max_seq_len is {model.Options.MaxSeqLen}.", nameof(prompt));
        }

        foreach (var token in prompt)
        {
            if (token < 0 || token >= model.Options.VocabSize)
            {
                throw new ArgumentException($"{owner}: a token must be 0..{model.Options.VocabSize - 1}; got {token}.", nameof(prompt));
            }
        }
    }
}
