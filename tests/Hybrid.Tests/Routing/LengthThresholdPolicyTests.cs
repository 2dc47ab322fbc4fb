using Hybrid.Routing;
using Xunit;

namespace Hybrid.Tests.Routing;

public class LengthThresholdPolicyTests
{
    [Theory]
    [InlineData(512, 2048, 256, false, Route.Attention, 0.9375)]
    [InlineData(512, 2048, 511, false, Route.Attention, 0.875244140625)]
    [InlineData(512, 2048, 512, false, Route.Mamba, 1.0)]
    [InlineData(512, 2048, 5000, false, Route.Mamba, 1.0)]
    [InlineData(4096, 2048, 2048, false, Route.Attention, 0.5)]
    [InlineData(4096, 2048, 2049, false, Route.Mamba, 0.7)]
    [InlineData(4096, 2048, 3000, false, Route.Mamba, 0.7)]
    [InlineData(4096, 2048, 1500, true, Route.Mamba, 0.833789)]
    [InlineData(64, 2048, 100, false, Route.Mamba, 0.9)]
    public void DecidesAsTheClassicTableSays(long threshold, long maxLength, long length, bool training, Route route, double confidence)
    {
        var decision = new LengthThresholdPolicy(threshold, maxLength, ConfidenceKind.Classic).Decide(length, training);
        Assert.Equal(route, decision.Route);
        Assert.Equal(confidence, decision.Confidence, 1e-6);
        Assert.Equal(length, decision.Length);
        Assert.Equal(threshold, decision.Threshold);
    }

    [Theory]
    [InlineData(512, 2048, 600, false, RoutingReason.LongSequenceEfficiency, "long_sequence_efficiency")]
    [InlineData(512, 2048, 300, false, RoutingReason.ShortSequencePrecision, "short_sequence_precision")]
    [InlineData(4096, 2048, 3000, false, RoutingReason.EdgeCasePreferEfficiency, "edge_case_prefer_efficiency")]
    [InlineData(4096, 2048, 1500, true, RoutingReason.ShortSequencePrecision, "short_sequence_precision_memory_optimization")]
    [InlineData(64, 2048, 100, false, RoutingReason.LongSequenceEfficiency, "long_sequence_efficiency_precision_preference")]
    [InlineData(200, 50, 100, false, RoutingReason.EdgeCasePreferEfficiency, "edge_case_prefer_efficiency_precision_preference")]
    public void SaysWhy(long threshold, long maxLength, long length, bool training, RoutingReason reason, string detail)
    {
        foreach (var kind in Enum.GetValues<ConfidenceKind>())
        {
            var decision = new LengthThresholdPolicy(threshold, maxLength, kind).Decide(length, training);
            Assert.Equal(reason, decision.Reason);
            Assert.Equal(detail, decision.Detail);
        }
    }

    [Theory]
    [InlineData(512, 512, 0.5)]
    [InlineData(512, 256, 0.75)]
    [InlineData(512, 1024, 0.75)]
    [InlineData(512, 128, 0.875)]
    [InlineData(512, 2048, 0.875)]
    [InlineData(512, 1, 0.9990234375)]
    [InlineData(400, 300, 0.625)]
    [InlineData(64, 100, 0.68)]
    public void MarginIsTheDistanceFromTheThreshold(long threshold, long length, double confidence) =>
        Assert.Equal(confidence, new LengthThresholdPolicy(threshold, 2048).Decide(length, false).Confidence, 1e-12);

    [Fact]
    public void TheMarginIsSmallestAtTheThresholdAndGrowsAwayFromIt()
    {
        var policy = new LengthThresholdPolicy(300, 2048);
        var confidences = Enumerable.Range(1, 900).Select(length => policy.Decide(length, false).Confidence).ToArray();
        Assert.All(Enumerable.Range(1, 299), i => Assert.True(confidences[i] < confidences[i - 1]));
        Assert.All(Enumerable.Range(300, 600), i => Assert.True(confidences[i] > confidences[i - 1]));
        Assert.All(confidences, confidence => Assert.InRange(confidence, 0.5, 1));
    }

    [Theory]
    [InlineData(1024, true, Route.Attention)]
    [InlineData(1025, true, Route.Mamba)]
    [InlineData(1025, false, Route.Attention)]
    public void TrainingSparesMemoryAboveTheLimit(long length, bool training, Route route) =>
        Assert.Equal(route, new LengthThresholdPolicy(4096, 2048).Decide(length, training).Route);

    [Fact]
    public void ClassicConfidenceStaysWithinOne()
    {
        var policy = new LengthThresholdPolicy(200_000, 100_000, ConfidenceKind.Classic);
        Assert.Equal(1, policy.Decide(1100, true).Confidence);
        Assert.Equal(1 - (0.5 * 1100 / 100_000), policy.Decide(1100, false).Confidence, 1e-12);
    }

    [Theory]
    [InlineData(127, 0.9)]
    [InlineData(128, 1.0)]
    public void ShortSequencesOnTheLongBranchAreLessCertain(long length, double confidence) =>
        Assert.Equal(confidence, new LengthThresholdPolicy(64, 2048, ConfidenceKind.Classic).Decide(length, false).Confidence, 1e-12);

    [Fact]
    public void AnOverrideIsCertainAndSaysSo()
    {
        var decision = new LengthThresholdPolicy(512, 2048).Force(Route.Mamba, 7);
        Assert.Equal(new RoutingDecision(Route.Mamba, RoutingReason.Forced, "forced", 1, 7, 512), decision);
    }

    [Fact]
    public void LengthsAndLimitsBelowOneAreRefused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new LengthThresholdPolicy(512, 2048).Decide(0, false));
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new LengthThresholdPolicy(0, 2048));
        Assert.StartsWith("LengthThresholdPolicy.threshold must be at least 1; got 0.", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new LengthThresholdPolicy(512, 0));
    }
}
