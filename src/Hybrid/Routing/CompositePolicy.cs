namespace Hybrid.Routing;

/// <summary>How a <see cref="CompositePolicy"/> puts its signals together.</summary>
public enum CompositeMode
{
    /// <summary>The first rule that matches decides.</summary>
    Rules,

    /// <summary>The sign of the weighted sum of all signals decides.</summary>
    Weighted,
}

/// <summary>Options of <see cref="CompositePolicy"/>.</summary>
public sealed record CompositePolicyOptions
{
    /// <summary>Rules or weights. Default: rules.</summary>
    public CompositeMode Mode { get; init; } = CompositeMode.Rules;

    /// <summary>The rules, see <see cref="RoutingRule"/>; at least one in the mode of rules, none in that of weights.</summary>
    public IReadOnlyList<string> Rules { get; init; } = [];

    /// <summary>
    /// Weight of the length: <c>log2(L / threshold)</c>, held to -1..1. Default 1. A positive sum of weighted signals means the
    /// state-space branch; all weights are at least 0 and one is positive.
    /// </summary>
    public double LengthWeight { get; init; } = 1;

    /// <summary>Weight of the content: <c>1 - 2 complexity</c>, with the complexity of the content options. Default 0.</summary>
    public double ContentWeight { get; init; }

    /// <summary>Weight of the batch: <c>log2(B / batch_reference)</c>, held to -1..1. Default 0.</summary>
    public double BatchWeight { get; init; }

    /// <summary>Weight of the memory: <c>log2(memory_reference_mib / free)</c>, held to -1..1; 0 where it is unknown. Default 0.</summary>
    public double MemoryWeight { get; init; }

    /// <summary>Weight of the mode: 1 while training, else 0. Default 0.</summary>
    public double TrainingWeight { get; init; }

    /// <summary>Batch size at which the batch says nothing; at least 1. Default 8.</summary>
    public long BatchReference { get; init; } = 8;

    /// <summary>Free memory, in MiB, at which the memory says nothing; at least 1. Default 1024.</summary>
    public long MemoryReferenceMib { get; init; } = 1024;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        const string owner = nameof(CompositePolicyOptions);
        OptionRange.AtLeast(owner, nameof(LengthWeight), LengthWeight, 0);
        OptionRange.AtLeast(owner, nameof(ContentWeight), ContentWeight, 0);
        OptionRange.AtLeast(owner, nameof(BatchWeight), BatchWeight, 0);
        OptionRange.AtLeast(owner, nameof(MemoryWeight), MemoryWeight, 0);
        OptionRange.AtLeast(owner, nameof(TrainingWeight), TrainingWeight, 0);
        OptionRange.Positive(owner, "the sum of the weights", WeightSum);
        OptionRange.AtLeast(owner, nameof(BatchReference), BatchReference, 1);
        OptionRange.AtLeast(owner, nameof(MemoryReferenceMib), MemoryReferenceMib, 1);
        if ((Mode == CompositeMode.Rules) != (Rules.Count > 0))
        {
            var expected = Mode == CompositeMode.Rules ? "one rule or more" : "empty where weights decide";
            throw new ArgumentException($"{owner}.{nameof(Rules)} must be {expected}; got {Rules.Count}.", nameof(Rules));
        }

        try
        {
            _ = ParseRules();
        }
        catch (ArgumentException error)
        {
            throw new ArgumentException(error.Message.Split(" (Parameter '", 2)[0], nameof(Rules), error);
        }
    }

    internal double WeightSum => LengthWeight + ContentWeight + BatchWeight + MemoryWeight + TrainingWeight;

    internal RoutingRule[] ParseRules() => [.. Rules.Select(RoutingRule.Parse)];
}

/// <summary>
/// Several signals together: length, content, batch, free memory and training, as rules in order or as a weighted sum. Where no rule
/// matches, the length policy decides.
/// </summary>
public sealed class CompositePolicy : RoutingPolicy
{
    private readonly CompositePolicyOptions options;
    private readonly ContentPolicyOptions content;
    private readonly LengthThresholdPolicy byLength;
    private readonly RoutingRule[] rules;

    /// <param name="options">Rules or weights.</param>
    /// <param name="content">What the weighted content signal means; null means the defaults.</param>
    /// <param name="byLength">Decides where no rule matches; gives the threshold of the length signal.</param>
    /// <exception cref="ArgumentException">A rule cannot be read, or an option is out of its range.</exception>
    public CompositePolicy(CompositePolicyOptions options, ContentPolicyOptions? content, LengthThresholdPolicy byLength)
        : base("composite")
    {
        options.Validate();
        this.options = options;
        this.content = content ?? new ContentPolicyOptions();
        this.content.Validate();
        this.byLength = byLength;
        rules = options.ParseRules();
        Inputs = options.Mode == CompositeMode.Rules
            ? rules.Aggregate(RoutingInputs.None, (inputs, rule) => inputs | rule.Inputs)
            : (options.ContentWeight > 0 ? RoutingInputs.Content : 0) | (options.MemoryWeight > 0 ? RoutingInputs.FreeMemory : 0);
    }

    /// <inheritdoc/>
    public override RoutingInputs Inputs { get; }

    /// <inheritdoc/>
    public override long Threshold => byLength.Threshold;

    /// <inheritdoc/>
    public override RoutingDecision Decide(in RoutingRequest request)
    {
        request.Validate();
        if (options.Mode == CompositeMode.Weighted)
        {
            // The confidence is 0.5 where the signals cancel out and 1 where all of them agree to the full.
            var score = Score(request) / options.WeightSum;
            var route = score > 0 ? Route.Mamba : Route.Attention;
            return new RoutingDecision(
                route, RoutingReason.WeightedSignals, "weighted_signals", 0.5 + (0.5 * Math.Abs(score)), request.Length, Threshold);
        }

        foreach (var rule in rules)
        {
            if (rule.Matches(request))
            {
                return new RoutingDecision(rule.Route, RoutingReason.Rule, rule.Text, 1, request.Length, Threshold);
            }
        }

        return byLength.Decide(request);
    }

    private double Score(in RoutingRequest request)
    {
        var score = options.LengthWeight * LogRatio(request.Length, Threshold);
        score += options.BatchWeight * LogRatio(request.BatchSize, options.BatchReference);
        score += options.TrainingWeight * (request.Training ? 1 : 0);
        if (request.Content is { } features)
        {
            score += options.ContentWeight * (1 - (2 * content.Complexity(features)));
        }

        return request.FreeMemoryMib is { } free ? score + (options.MemoryWeight * LogRatio(options.MemoryReferenceMib, free)) : score;
    }

    private static double LogRatio(double value, double reference) => Math.Clamp(Math.Log2(value / reference), -1, 1);
}
