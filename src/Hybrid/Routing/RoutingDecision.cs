namespace Hybrid.Routing;

/// <summary>The branches of a router.</summary>
public enum Route
{
    /// <summary>Multi-head attention.</summary>
    Attention,

    /// <summary>The state-space mixer.</summary>
    Mamba,
}

/// <summary>Why a router chose as it did.</summary>
public enum RoutingReason
{
    /// <summary>The sequence reaches the threshold: the recurrence is the cheaper form.</summary>
    LongSequenceEfficiency,

    /// <summary>The sequence is below the threshold: attention is affordable and exact.</summary>
    ShortSequencePrecision,

    /// <summary>Below the threshold, but longer than attention takes.</summary>
    EdgeCasePreferEfficiency,

    /// <summary>The caller forced the route.</summary>
    Forced,
}

/// <summary>What a router decided for a sequence.</summary>
/// <param name="Route">The branch.</param>
/// <param name="Reason">Why, as a stable code.</param>
/// <param name="Detail">The same in words, with what modified the decision.</param>
/// <param name="Confidence">0..1; what it means is the policy's to say.</param>
/// <param name="Length">The length that was decided on, in tokens.</param>
/// <param name="Threshold">The threshold in force, in tokens.</param>
public readonly record struct RoutingDecision(
    Route Route, RoutingReason Reason, string Detail, double Confidence, long Length, long Threshold);

/// <summary>Counts of a router since its construction or the last reset, as one consistent snapshot.</summary>
/// <param name="TotalDecisions">Decisions taken.</param>
/// <param name="MambaCount">Decisions for the state-space branch.</param>
/// <param name="AttentionCount">Decisions for attention.</param>
/// <param name="AverageLength">Mean length of the routed sequences, in tokens; 0 before the first.</param>
/// <param name="Last">The latest decision, or null before the first.</param>
public sealed record RoutingMetrics(
    long TotalDecisions, long MambaCount, long AttentionCount, double AverageLength, RoutingDecision? Last);
