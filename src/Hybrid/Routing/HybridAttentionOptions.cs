using Hybrid.Attention;
using Hybrid.Mixers;

namespace Hybrid.Routing;

/// <summary>What a router does when a sequence that it carries would now be routed the other way.</summary>
public enum ThresholdCrossing
{
    /// <summary>The sequence stays on its route: a key-value cache is not a recurrent state.</summary>
    Stay,

    /// <summary>The other branch reads the whole sequence anew, from inputs that the state keeps up to a bound.</summary>
    Reprefill,

    /// <summary>The call is refused before anything advances.</summary>
    Throw,
}

/// <summary>Options of <see cref="HybridAttention"/>.</summary>
public sealed record HybridAttentionOptions
{
    /// <summary>Length, in tokens, from which sequences go to the state-space branch; at least 1. Default 512.</summary>
    public long MambaThreshold { get; init; } = 512;

    /// <summary>Longest sequence for attention, in tokens; at least 1. Default 2048.</summary>
    public long TransformerMaxLength { get; init; } = 2048;

    /// <summary>How the length policy states its confidence. Default: margin.</summary>
    public ConfidenceKind Confidence { get; init; } = ConfidenceKind.Margin;

    /// <summary>A name of <see cref="RoutingPolicyRegistry"/>: length, content, adaptive, composite or one's own. Default: length.</summary>
    public string Policy { get; init; } = RoutingPolicyRegistry.Length;

    /// <summary>Options of the content policy, and of the content signal of the composite one; null means their defaults.</summary>
    public ContentPolicyOptions? Content { get; init; }

    /// <summary>What the adaptive policy starts from; null means that nothing was measured yet.</summary>
    public RoutingCalibration? Adaptive { get; init; }

    /// <summary>Options of the composite policy, which needs them.</summary>
    public CompositePolicyOptions? Composite { get; init; }

    /// <summary>Keeps decisions in a <see cref="DecisionCache"/>. Default true; the library's own policies of length and rules are cheaper without.</summary>
    public bool EnableCaching { get; init; } = true;

    /// <summary>Decisions that the cache holds at most; at least 1. Default 1000.</summary>
    public int CacheCapacity { get; init; } = 1000;

    /// <summary>Counts decisions, for <see cref="HybridAttention.GetMetrics"/> and the meter. Default true.</summary>
    public bool CollectMetrics { get; init; } = true;

    /// <summary>Logs every decision to <see cref="HybridAttention.Logger"/>. Default false.</summary>
    public bool LogDecisions { get; init; }

    /// <summary>How the processing time of a call is taken. Default: not at all.</summary>
    public CallTiming Timing { get; init; } = CallTiming.None;

    /// <summary>
    /// Share of the new batches given to <see cref="HybridAttention.Run"/>, outside of training, that run through the other branch too, to
    /// measure <see cref="RoutingCallMetrics.BranchAgreement"/>: 0..1. Default 0.
    /// </summary>
    public double ShadowRate { get; init; }

    /// <summary>What happens when a carried sequence would now be routed the other way. Default: it stays on its route.</summary>
    public ThresholdCrossing OnThresholdCrossing { get; init; } = ThresholdCrossing.Stay;

    /// <summary>
    /// With <see cref="ThresholdCrossing.Reprefill"/>, tokens of each sequence whose inputs a state keeps, D numbers each; at least 1. A
    /// batch with a longer sequence lets them go and stays on its routes from then on. Default 4096.
    /// </summary>
    public long ReprefillMaxTokens { get; init; } = 4096;

    /// <summary>
    /// Both branches in <see cref="MixedPrecision"/>: matrices and activations in bfloat16; A_log, D, step-size bias, norms and recurrent
    /// states in float32. A float32 input is rounded and has a float32 output, so that the layers around the router need not be
    /// converted. Default false.
    /// </summary>
    public bool UseMixedPrecision { get; init; }

    /// <summary>
    /// True (the default) where the router stands alone: each branch is <c>x + mixer(norm x)</c>, then <c>x + ffn(norm x)</c>. False
    /// inside a backbone, whose blocks have the norm and the residual.
    /// </summary>
    public bool ResidualBranches { get; init; } = true;

    /// <summary>Inner width of the branches' feed-forward layer; null means its default for the width.</summary>
    public long? IntermediateSize { get; init; }

    /// <summary>Dropout on each residual branch while training. Default 0.1; without residual branches it does not apply.</summary>
    public double DropoutRate { get; init; } = 0.1;

    /// <summary>Epsilon of the branches' norms; positive. Default 1e-12.</summary>
    public double LayerNormEps { get; init; } = 1e-12;

    /// <summary>The attention branch.</summary>
    public AttentionOptions AttentionConfig { get; init; } = new();

    /// <summary>The state-space branch.</summary>
    public MambaOptions MambaConfig { get; init; } = new();

    /// <summary>
    /// Two branches with weights of their own (the default), or one set of weights that serves both, as <see cref="SharedConfig"/> says.
    /// </summary>
    public BranchWeights Weights { get; init; }

    /// <summary>The mixer of shared weights, its TransPoint being <see cref="MambaThreshold"/> unless given; null means its defaults.</summary>
    public TransPointOptions? SharedConfig { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        const string owner = nameof(HybridAttentionOptions);
        OptionRange.AtLeast(owner, nameof(MambaThreshold), MambaThreshold, 1);
        OptionRange.AtLeast(owner, nameof(TransformerMaxLength), TransformerMaxLength, 1);
        OptionRange.AtLeast(owner, nameof(CacheCapacity), CacheCapacity, 1);
        OptionRange.Between(owner, nameof(ShadowRate), ShadowRate, 0, 1);
        OptionRange.AtLeast(owner, nameof(ReprefillMaxTokens), ReprefillMaxTokens, 1);
        OptionRange.AtLeast(owner, nameof(IntermediateSize), IntermediateSize ?? 1, 1);
        OptionRange.DropRate(owner, nameof(DropoutRate), DropoutRate);
        OptionRange.Positive(owner, nameof(LayerNormEps), LayerNormEps);
        SharedWeights.Validate(this);
        _ = RoutingPolicyRegistry.Find(Policy);
        RequirePolicy(nameof(Content), Content is not null, "content", "composite");
        RequirePolicy(nameof(Adaptive), Adaptive is not null, "adaptive");
        RequirePolicy(nameof(Composite), Composite is not null, "composite");
        if (Policy == "composite" && Composite is null)
        {
            throw new ArgumentException($"{owner}.{nameof(Composite)} must be a table of rules or weights with the policy 'composite'; got nothing.", nameof(Composite));
        }
    }

    /// <summary>Options of one of the library's policies would go unread with another of them.</summary>
    private void RequirePolicy(string name, bool given, params string[] readers)
    {
        if (given && !readers.Contains(Policy) && Policy is (RoutingPolicyRegistry.Length or "content" or "adaptive" or "composite"))
        {
            throw new ArgumentException(
                $"{nameof(HybridAttentionOptions)}.{name} must be left out: the policy '{Policy}' does not read it; " +
                $"{string.Join(" and ", readers)} {(readers.Length > 1 ? "do" : "does")}.",
                name);
        }
    }
}
