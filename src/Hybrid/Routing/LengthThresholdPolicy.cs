namespace Hybrid.Routing;

/// <summary>How the length policy states its confidence.</summary>
public enum ConfidenceKind
{
    /// <summary>
    /// <c>1 - 0.5 min(L, thr) / max(L, thr)</c>: 0.5 at the threshold, 0.75 at half and at twice it. A margin, not a probability.
    /// </summary>
    Margin,

    /// <summary>The figures of earlier routers, kept for comparison: 1 for long, <c>1 - 0.5 L / M</c> for short sequences.</summary>
    Classic,
}

/// <summary>
/// Routes by length L alone: <c>L &gt;= threshold</c> goes to the state-space branch, shorter sequences to attention as far as it takes
/// them (L &lt;= M), what lies between to the state-space branch.
/// </summary>
public sealed class LengthThresholdPolicy
{
    private const long MemoryLength = 1024;
    private const long PrecisionLength = 128;

    private readonly long threshold;
    private readonly long attentionMaxLength;
    private readonly ConfidenceKind confidence;

    /// <param name="threshold">Length from which sequences go to the state-space branch; at least 1.</param>
    /// <param name="attentionMaxLength">Longest sequence M for attention; at least 1.</param>
    /// <param name="confidence">How confidence is stated.</param>
    public LengthThresholdPolicy(long threshold, long attentionMaxLength, ConfidenceKind confidence = ConfidenceKind.Margin)
    {
        OptionRange.AtLeast(nameof(LengthThresholdPolicy), nameof(threshold), threshold, 1);
        OptionRange.AtLeast(nameof(LengthThresholdPolicy), nameof(attentionMaxLength), attentionMaxLength, 1);
        this.threshold = threshold;
        this.attentionMaxLength = attentionMaxLength;
        this.confidence = confidence;
    }

    /// <summary>Decides for one sequence.</summary>
    /// <param name="length">Its length L in tokens; at least 1.</param>
    /// <param name="training">
    /// True while training: sequences over 1024 tokens then go to the state-space branch for memory's sake.
    /// </param>
    /// <returns>The decision.</returns>
    public RoutingDecision Decide(long length, bool training)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(length, 1);
        var (route, reason, classic) = length switch
        {
            _ when length >= threshold => (Route.Mamba, RoutingReason.LongSequenceEfficiency, Math.Min(1, (double)length / threshold)),
            _ when length <= attentionMaxLength =>
                (Route.Attention, RoutingReason.ShortSequencePrecision, 1 - (0.5 * length / attentionMaxLength)),
            _ => (Route.Mamba, RoutingReason.EdgeCasePreferEfficiency, 0.7),
        };

        var detail = Describe(reason);
        if (training && length > MemoryLength && route == Route.Attention)
        {
            route = Route.Mamba;
            classic = Math.Min(classic + 0.2, 1);
            detail += "_memory_optimization";
        }

        if (length < PrecisionLength && route == Route.Mamba)
        {
            classic = Math.Max(classic - 0.1, 0);
            detail += "_precision_preference";
        }

        var stated = confidence == ConfidenceKind.Classic ? classic : Margin(length);
        return new RoutingDecision(route, reason, detail, stated, length, threshold);
    }

    /// <summary>The decision that an override stands for.</summary>
    /// <param name="route">The forced branch.</param>
    /// <param name="length">Length in tokens.</param>
    /// <returns>A decision of confidence 1.</returns>
    public RoutingDecision Force(Route route, long length) => new(route, RoutingReason.Forced, "forced", 1, length, threshold);

    private double Margin(long length) => 1 - (0.5 * Math.Min(length, threshold) / Math.Max(length, threshold));

    private static string Describe(RoutingReason reason) => reason switch
    {
        RoutingReason.LongSequenceEfficiency => "long_sequence_efficiency",
        RoutingReason.ShortSequencePrecision => "short_sequence_precision",
        _ => "edge_case_prefer_efficiency",
    };
}
