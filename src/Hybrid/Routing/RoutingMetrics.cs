namespace Hybrid.Routing;

/// <summary>Counts of a router since its construction or the last reset, as one consistent snapshot.</summary>
/// <param name="TotalDecisions">Decisions taken.</param>
/// <param name="MambaCount">Decisions for the state-space branch.</param>
/// <param name="AttentionCount">Decisions for attention.</param>
/// <param name="AverageLength">Mean length of the routed sequences, in tokens; 0 before the first.</param>
/// <param name="Last">The latest decision, or null before the first.</param>
public sealed record RoutingMetrics(
    long TotalDecisions, long MambaCount, long AttentionCount, double AverageLength, RoutingDecision? Last);

/// <summary>Counts of a decision cache, as one consistent snapshot.</summary>
/// <param name="Size">Decisions that it holds.</param>
/// <param name="Hits">Requests that it answered.</param>
/// <param name="Misses">Requests that went to the policy.</param>
public readonly record struct DecisionCacheMetrics(long Size, long Hits, long Misses)
{
    /// <summary>Hits over requests; 0 before the first.</summary>
    public double HitRate => Hits + Misses == 0 ? 0 : (double)Hits / (Hits + Misses);
}

/// <summary>How the processing time of a call is taken.</summary>
public enum CallTiming
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>Until the branch has returned to the host. Work that a GPU has only queued is not in it.</summary>
    Host,

    /// <summary>Until the device has finished: a GPU is synchronised before and after the branch, which costs overlap.</summary>
    Device,
}

/// <summary>What one call of a router did.</summary>
public sealed record RoutingCallMetrics
{
    /// <summary>The decision of each row; a single one where all rows were decided together.</summary>
    public required IReadOnlyList<RoutingDecision> Decisions { get; init; }

    /// <summary><c>attention</c>, <c>mamba</c>, or <c>mixed</c> where rows went both ways.</summary>
    public required string SelectedModule { get; init; }

    /// <summary>Why, in words; of the first row.</summary>
    public string SelectionReason => Decisions[0].Detail;

    /// <summary>Cost of the branch; of the dearer one where rows went both ways.</summary>
    public required ComputeComplexity Complexity { get; init; }

    /// <summary>Time steps T of the input.</summary>
    public required long SequenceLength { get; init; }

    /// <summary>Rows B of the input.</summary>
    public required long BatchSize { get; init; }

    /// <summary>The length threshold in force, in tokens; 0 where the policy has none.</summary>
    public long MambaThreshold => Decisions[0].Threshold;

    /// <summary>Confidence of the decision; of the least certain row.</summary>
    public double DecisionConfidence => Decisions.Min(decision => decision.Confidence);

    /// <summary>True where the input continued sequences that had their route: nothing was decided.</summary>
    public required bool Continued { get; init; }

    /// <summary>Time to decide, in microseconds, with the measuring of content where the policy reads it.</summary>
    public required double RouterTimeUs { get; init; }

    /// <summary>Time of the branches, in milliseconds; null with <see cref="CallTiming.None"/>.</summary>
    public double? ProcessingTimeMs { get; init; }

    /// <summary>What the router's <see cref="IQualityProbe"/> says of the output; null without a probe.</summary>
    public double? QualityScore { get; init; }

    /// <summary>
    /// Mean cosine, over tokens, of the outputs of both branches; null unless this call was drawn for a shadow run. It says how much the
    /// route matters, not which one is right.
    /// </summary>
    public double? BranchAgreement { get; init; }
}
