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
public sealed class LengthThresholdPolicy : RoutingPolicy
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
        : base("length")
    {
        OptionRange.AtLeast(nameof(LengthThresholdPolicy), nameof(threshold), threshold, 1);
        OptionRange.AtLeast(nameof(LengthThresholdPolicy), nameof(attentionMaxLength), attentionMaxLength, 1);
        this.threshold = threshold;
        this.attentionMaxLength = attentionMaxLength;
        this.confidence = confidence;
    }

    /// <inheritdoc/>
    public override long Threshold => threshold;

    /// <summary>Longest sequence M for attention.</summary>
    public long AttentionMaxLength => attentionMaxLength;

    /// <inheritdoc/>
    public override RoutingDecision Decide(in RoutingRequest request)
    {
        request.Validate();
        return Decide(request.Length, request.Training);
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
        var (route, reason, classic) =
            length >= threshold ? (Route.Mamba, RoutingReason.LongSequenceEfficiency, Math.Min(1, (double)length / threshold))
            : length <= attentionMaxLength ? (Route.Attention, RoutingReason.ShortSequencePrecision, 1 - (0.5 * length / attentionMaxLength))
            : (Route.Mamba, RoutingReason.EdgeCasePreferEfficiency, 0.7);

        var spareMemory = training && length > MemoryLength && route == Route.Attention;
        if (spareMemory)
        {
            route = Route.Mamba;
            classic = Math.Min(classic + 0.2, 1);
        }

        var imprecise = length < PrecisionLength && route == Route.Mamba;
        if (imprecise)
        {
            classic = Math.Max(classic - 0.1, 0);
        }

        var stated = confidence == ConfidenceKind.Classic ? classic : Margin(length, threshold);
        return new RoutingDecision(route, reason, Describe(reason, spareMemory, imprecise), stated, length, threshold);
    }

    /// <summary><c>1 - 0.5 min(L, thr) / max(L, thr)</c>.</summary>
    internal static double Margin(long length, long threshold) => 1 - (0.5 * Math.Min(length, threshold) / Math.Max(length, threshold));

    /// <summary>Constants, so that a decision allocates nothing. Memory is spared above 1024 tokens only, precision missed below 128.</summary>
    private static string Describe(RoutingReason reason, bool spareMemory, bool imprecise) => (reason, spareMemory, imprecise) switch
    {
        (RoutingReason.LongSequenceEfficiency, _, false) => "long_sequence_efficiency",
        (RoutingReason.LongSequenceEfficiency, _, true) => "long_sequence_efficiency_precision_preference",
        (RoutingReason.ShortSequencePrecision, false, _) => "short_sequence_precision",
        (RoutingReason.ShortSequencePrecision, true, _) => "short_sequence_precision_memory_optimization",
        (_, _, false) => "edge_case_prefer_efficiency",
        (_, _, true) => "edge_case_prefer_efficiency_precision_preference",
    };
}
