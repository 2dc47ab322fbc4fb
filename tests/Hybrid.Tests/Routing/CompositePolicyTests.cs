using Hybrid.Routing;
using Xunit;

namespace Hybrid.Tests.Routing;

public class CompositePolicyTests
{
    private static readonly LengthThresholdPolicy ByLength = new(512, 2048);

    [Theory]
    [InlineData("length > 100 -> mamba", 101, true)]
    [InlineData("length > 100 -> mamba", 100, false)]
    [InlineData("length >= 100 -> mamba", 100, true)]
    [InlineData("length < 100 -> mamba", 99, true)]
    [InlineData("length < 100 -> mamba", 100, false)]
    [InlineData("length <= 100 -> mamba", 100, true)]
    [InlineData("length == 100 -> mamba", 100, true)]
    [InlineData("length == 100 -> mamba", 101, false)]
    [InlineData("batch_size >= 4 and not training -> mamba", 1, true)]
    [InlineData("batch_size >= 4 and training -> mamba", 1, false)]
    [InlineData("batch_size > 4 -> mamba", 1, false)]
    [InlineData("free_memory_mib < 1000 -> mamba", 1, true)]
    [InlineData("free_memory_mib > 1000 -> mamba", 1, false)]
    [InlineData("repetition > 0.2 and novelty == 0.5 and variance <= 0.75 -> mamba", 1, true)]
    [InlineData("repetition > 0.3 -> mamba", 1, false)]
    public void ARuleMatchesWhereAllItsConditionsHold(string rule, long length, bool matches)
    {
        var request = new RoutingRequest(length) { BatchSize = 4, FreeMemoryMib = 640, Content = new ContentFeatures(0.25, 0.5, 0.75) };
        Assert.Equal(matches, RoutingRule.Parse(rule).Matches(request));
    }

    [Fact]
    public void WhatWasNotMeasuredMatchesNothing()
    {
        Assert.False(RoutingRule.Parse("novelty >= 0 -> mamba").Matches(new RoutingRequest(1)));
        Assert.False(RoutingRule.Parse("free_memory_mib >= 0 -> mamba").Matches(new RoutingRequest(1)));
    }

    [Fact]
    public void TheFirstRuleThatMatchesDecides_AndTheLengthPolicyWhereNoneDoes()
    {
        var policy = Rules("length > 1000 and training -> attention", "length > 500 -> mamba", "batch_size == 9 -> attention");
        Assert.Equal(
            new RoutingDecision(Route.Attention, RoutingReason.Rule, "length > 1000 and training -> attention", 1, 1001, 512),
            policy.Decide(new RoutingRequest(1001) { Training = true }));
        Assert.Equal("length > 500 -> mamba", policy.Decide(new RoutingRequest(1001)).Detail);
        Assert.Equal("batch_size == 9 -> attention", policy.Decide(new RoutingRequest(500) { BatchSize = 9 }).Detail);
        Assert.Equal(ByLength.Decide(500, false), policy.Decide(new RoutingRequest(500)));
    }

    [Fact]
    public void OnlyWhatTheRulesReadIsMeasured()
    {
        Assert.Equal(RoutingInputs.None, Rules("length > 5 and training and batch_size > 2 -> mamba").Inputs);
        Assert.Equal(RoutingInputs.Content, Rules("length > 5 -> mamba", "variance > 0.5 -> attention").Inputs);
        Assert.Equal(RoutingInputs.Content | RoutingInputs.FreeMemory, Rules("novelty > 0.5 and free_memory_mib < 9 -> mamba").Inputs);
        Assert.Equal(RoutingInputs.FreeMemory, Weighted(new() { MemoryWeight = 1 }).Inputs);
        Assert.Equal(RoutingInputs.None, Weighted(new()).Inputs);
    }

    [Theory]
    [InlineData("length > 5", "must have conditions joined by 'and'")]
    [InlineData("length > 5 -> sideways", "must have '-> mamba' or '-> attention'; got '-> sideways'")]
    [InlineData("lenght > 5 -> mamba", "must have one of length, batch_size, free_memory_mib, repetition, novelty, variance before '>'; got 'lenght'")]
    [InlineData("length > five -> mamba", "must have a number after '>'; got 'five'")]
    [InlineData("length => 5 -> mamba", "must have a number after '>'; got")]
    [InlineData("testing -> mamba", "must have 'training', 'not training' or a comparison; got 'testing'")]
    [InlineData(" -> mamba", "got ''")]
    [InlineData("length > nan -> mamba", "must have a number")]
    public void ARuleThatCannotBeReadSaysWhy(string rule, string text)
    {
        var error = Assert.Throws<ArgumentException>(() => Rules(rule));
        Assert.Contains($"the rule \"{rule}\"", error.Message, StringComparison.Ordinal);
        if (!rule.Contains("=>", StringComparison.Ordinal))
        {
            Assert.Contains(text, error.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(512, 1, false, 0, 0.5)]
    [InlineData(1024, 1, false, 1, 1)]
    [InlineData(4096, 1, false, 1, 1)]
    [InlineData(128, 1, false, -1, 1)]
    [InlineData(724, 1, false, 0.4998, 0.7499)]
    public void TheWeightedLengthSignalIsTheLogarithmOfTheRatio(long length, long batch, bool training, double score, double confidence)
    {
        var decision = Weighted(new()).Decide(new RoutingRequest(length) { BatchSize = batch, Training = training });
        Assert.Equal(score > 0 ? Route.Mamba : Route.Attention, decision.Route);
        Assert.Equal(confidence, decision.Confidence, 1e-3);
        Assert.Equal((RoutingReason.WeightedSignals, 512), (decision.Reason, decision.Threshold));
    }

    [Fact]
    public void EverySignalPullsWithItsWeight()
    {
        var policy = Weighted(new()
        {
            LengthWeight = 1, ContentWeight = 2, BatchWeight = 3, MemoryWeight = 4, TrainingWeight = 5, BatchReference = 8, MemoryReferenceMib = 1024,
        });

        // Length 256 of 512: -1. Content: complexity (0.5 + 0.75) / 2, so -0.25. Batch 16 of 8: 1. Free 2048 of 1024: -1. Training: 1.
        var request = new RoutingRequest(256)
        {
            BatchSize = 16, Training = true, FreeMemoryMib = 2048, Content = new ContentFeatures(0.25, 0.5, 0),
        };
        var score = (-1 - (2 * 0.25) + 3 - 4 + 5) / 15.0;
        var decision = policy.Decide(request);
        Assert.Equal((Route.Mamba, 0.5 + (0.5 * score)), (decision.Route, decision.Confidence));
        Assert.Equal(Route.Attention, policy.Decide(request with { Training = false }).Route);
        Assert.Equal(0.5 + (0.5 * (-1 + 3 + 5) / 15.0), policy.Decide(request with { Content = null, FreeMemoryMib = null }).Confidence, 1e-12);
    }

    [Fact]
    public void OptionsThatSayNothingOrTooMuchAreNamed()
    {
        Expect("CompositePolicyOptions.Rules must be one rule or more; got 0.", new());
        Expect("CompositePolicyOptions.Rules must be empty where weights decide; got 1.", new() { Mode = CompositeMode.Weighted, Rules = ["training -> mamba"] });
        Expect("CompositePolicyOptions.LengthWeight must be at least 0; got -1.", new() { LengthWeight = -1 });
        Expect("CompositePolicyOptions.the sum of the weights must be positive; got 0.", new() { Mode = CompositeMode.Weighted, LengthWeight = 0 });
        Expect("CompositePolicyOptions.BatchReference must be at least 1; got 0.", new() { BatchReference = 0 });
        Expect("CompositePolicyOptions.MemoryReferenceMib must be at least 1; got 0.", new() { MemoryReferenceMib = 0 });

        static void Expect(string text, CompositePolicyOptions options) => Assert.StartsWith(
            text, Assert.ThrowsAny<ArgumentException>(() => new CompositePolicy(options, null, ByLength)).Message, StringComparison.Ordinal);
    }

    private static CompositePolicy Rules(params string[] rules) => new(new CompositePolicyOptions { Rules = rules }, null, ByLength);

    private static CompositePolicy Weighted(CompositePolicyOptions options) =>
        new(options with { Mode = CompositeMode.Weighted }, null, ByLength);
}
