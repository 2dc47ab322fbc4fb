namespace Hybrid.Routing;

/// <summary>Options of <see cref="ContentPolicy"/>.</summary>
public sealed record ContentPolicyOptions
{
    /// <summary>Weight of the novelty; at least 0. Default 1.</summary>
    public double NoveltyWeight { get; init; } = 1;

    /// <summary>Weight of what does not repeat, <c>1 - repetition</c>; at least 0. Default 1.</summary>
    public double RepetitionWeight { get; init; } = 1;

    /// <summary>Weight of the variance; at least 0. Default 0: it depends on the scale of the hidden states.</summary>
    public double VarianceWeight { get; init; }

    /// <summary>Complexity, 0..1, from which a sequence goes to attention. Default 0.5.</summary>
    public double ComplexityThreshold { get; init; } = 0.5;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(ContentPolicyOptions), nameof(NoveltyWeight), NoveltyWeight, 0);
        OptionRange.AtLeast(nameof(ContentPolicyOptions), nameof(RepetitionWeight), RepetitionWeight, 0);
        OptionRange.AtLeast(nameof(ContentPolicyOptions), nameof(VarianceWeight), VarianceWeight, 0);
        OptionRange.Between(nameof(ContentPolicyOptions), nameof(ComplexityThreshold), ComplexityThreshold, 0, 1);
        OptionRange.Positive(
            nameof(ContentPolicyOptions), "the sum of the weights", NoveltyWeight + RepetitionWeight + VarianceWeight);
    }

    /// <summary>The weighted mean of the features, 0..1: how much a recurrent state would have to hold.</summary>
    /// <param name="content">The features.</param>
    /// <returns>The complexity.</returns>
    public double Complexity(in ContentFeatures content) =>
        ((NoveltyWeight * content.Novelty) + (RepetitionWeight * (1 - content.Repetition)) + (VarianceWeight * content.Variance))
        / (NoveltyWeight + RepetitionWeight + VarianceWeight);
}

/// <summary>
/// Routes by what the prompt holds: novel content to attention, which recalls it exactly, repetitive content to the state-space branch,
/// whose state it fits. Past the longest sequence for attention, and where content was not measured, the length policy decides.
/// </summary>
/// <remarks>The features are means over the whole prompt, taken at prefill; see <see cref="ContentFeatures"/>.</remarks>
public sealed class ContentPolicy : RoutingPolicy
{
    private readonly ContentPolicyOptions options;
    private readonly LengthThresholdPolicy byLength;

    /// <param name="options">Weights and threshold; null means the defaults.</param>
    /// <param name="byLength">Decides where content does not.</param>
    public ContentPolicy(ContentPolicyOptions? options, LengthThresholdPolicy byLength)
        : base("content")
    {
        this.options = options ?? new ContentPolicyOptions();
        this.options.Validate();
        this.byLength = byLength;
    }

    /// <inheritdoc/>
    public override RoutingInputs Inputs => RoutingInputs.Content;

    /// <inheritdoc/>
    public override long Threshold => byLength.Threshold;

    /// <inheritdoc/>
    public override RoutingDecision Decide(in RoutingRequest request)
    {
        request.Validate();
        if (request.Content is not { } content || request.Length > byLength.AttentionMaxLength)
        {
            return byLength.Decide(request);
        }

        // The confidence is the distance from the threshold, 0.5 at it and 1 at the end of the scale.
        var complexity = options.Complexity(content);
        var (novel, threshold) = (complexity >= options.ComplexityThreshold, options.ComplexityThreshold);
        var distance = novel ? (complexity - threshold) / Math.Max(1 - threshold, 1e-9) : (threshold - complexity) / threshold;
        return novel
            ? new RoutingDecision(
                Route.Attention, RoutingReason.NovelContent, "novel_content", 0.5 + (0.5 * distance), request.Length, Threshold)
            : new RoutingDecision(
                Route.Mamba, RoutingReason.RepetitiveContent, "repetitive_content", 0.5 + (0.5 * distance), request.Length, Threshold);
    }
}
