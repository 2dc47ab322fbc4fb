namespace Hybrid.Modeling;

/// <summary>Why a text ended.</summary>
public enum FinishReason
{
    /// <summary>The model chose one of <see cref="GenerationOptions.StopTokens"/>.</summary>
    StopToken,

    /// <summary>The text came to one of <see cref="GenerationOptions.StopStrings"/>.</summary>
    StopString,

    /// <summary><see cref="GenerationOptions.MaxNewTokens"/> are there.</summary>
    MaxNewTokens,

    /// <summary>The sequence is as long as the model's max_seq_len.</summary>
    MaxSeqLen,
}
