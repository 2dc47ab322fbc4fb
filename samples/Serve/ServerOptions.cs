namespace Hybrid.Samples;

/// <summary>Limits of the server.</summary>
internal sealed record ServerOptions
{
    /// <summary>Name of the model in answers.</summary>
    public string ModelName { get; init; } = "hybrid";

    /// <summary>Texts that are generated at the same time; at least 1.</summary>
    public int Workers { get; init; } = 1;

    /// <summary>Requests that wait for a worker; more are refused with status 429.</summary>
    public int QueueLength { get; init; } = 16;

    /// <summary>How long a request waits for a worker at most; positive. Then it is refused with status 503.</summary>
    public TimeSpan LongestWait { get; init; } = TimeSpan.FromMinutes(1);

    /// <summary>Most tokens that a request may ask for.</summary>
    public int MaxTokens { get; init; } = 1024;

    /// <summary>Most tokens of a prompt.</summary>
    public int MaxPromptTokens { get; init; } = 4096;

    /// <summary>Most bytes of a request's body.</summary>
    public long MaxBodyBytes { get; init; } = 256 * 1024;

    /// <summary>Bytes of prompt states to keep; 0 keeps none.</summary>
    public long PromptCacheBytes { get; init; } = 256L << 20;

    /// <summary>Throws where a limit makes no sense.</summary>
    public void Validate()
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(Workers, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(QueueLength);
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(LongestWait, TimeSpan.Zero);
        ArgumentOutOfRangeException.ThrowIfLessThan(MaxTokens, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(MaxPromptTokens, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(MaxBodyBytes, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(PromptCacheBytes);
    }
}
