namespace Hybrid.Routing;

/// <summary>The branches of a router.</summary>
public enum Route
{
    /// <summary>Multi-head attention.</summary>
    Attention,

    /// <summary>The state-space mixer.</summary>
    Mamba,
}

/// <summary>Why a router chose as it did. The numbers are stable: they may be stored and compared across versions.</summary>
public enum RoutingReason
{
    /// <summary>The sequence reaches the threshold: the recurrence is the cheaper form.</summary>
    LongSequenceEfficiency = 0,

    /// <summary>The sequence is below the threshold: attention is affordable and exact.</summary>
    ShortSequencePrecision = 1,

    /// <summary>Below the threshold, but longer than attention takes.</summary>
    EdgeCasePreferEfficiency = 2,

    /// <summary>The caller forced the route.</summary>
    Forced = 3,

    /// <summary>The content is novel or varied: attention recalls it exactly.</summary>
    NovelContent = 4,

    /// <summary>The content repeats itself: a recurrent state holds it.</summary>
    RepetitiveContent = 5,

    /// <summary>The branch was measured to be the faster one at this length.</summary>
    MeasuredFaster = 6,

    /// <summary>A rule of the policy matched; the detail is the rule.</summary>
    Rule = 7,

    /// <summary>The weighted sum of several signals.</summary>
    WeightedSignals = 8,

    /// <summary>The route came with a state that was read from a file, without its decision.</summary>
    Restored = 9,
}

/// <summary>What a router decided for a sequence.</summary>
/// <param name="Route">The branch.</param>
/// <param name="Reason">Why, as a stable code.</param>
/// <param name="Detail">The same in words, with what modified the decision.</param>
/// <param name="Confidence">0..1; what it means is the policy's to say.</param>
/// <param name="Length">The length that was decided on, in tokens.</param>
/// <param name="Threshold">The length threshold in force, in tokens; 0 where the policy has none.</param>
public readonly record struct RoutingDecision(
    Route Route, RoutingReason Reason, string Detail, double Confidence, long Length, long Threshold);
