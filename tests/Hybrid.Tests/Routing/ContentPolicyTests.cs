using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class ContentPolicyTests
{
    // The features come in steps of 1/1024.
    private const double Step = 1.0 / 1024;

    [Theory]
    [InlineData(1, null)]
    [InlineData(2, null)]
    [InlineData(17, null)]
    [InlineData(9, new long[] { 9, 1, 4 })]
    public void FeaturesAreTheirFormulas(long time, long[]? lengths)
    {
        using var scope = NewDisposeScope();
        const int batch = 3;
        const int width = 5;
        var x = Values.Normal(1, batch, time, width);
        var values = Values.Of(x);
        var measured = ContentFeatures.Measure(x, lengths);
        Assert.Equal(batch, measured.Length);
        for (var row = 0; row < batch; row++)
        {
            var tokens = Enumerable.Range(0, (int)(lengths?[row] ?? time))
                .Select(t => values.AsSpan((int)((row * time) + t) * width, width).ToArray()).ToArray();
            Assert.Equal(tokens.Average(Spread), measured[row].Variance, Step);
            Assert.Equal(tokens.Length == 1 ? 0 : Enumerable.Range(1, tokens.Length - 1).Average(t => Cosine(tokens[t], tokens[t - 1])), measured[row].Repetition, Step);
            Assert.Equal(tokens.Length == 1 ? 1 : Enumerable.Range(1, tokens.Length - 1).Average(t => Novelty(tokens[t], tokens[..t])), measured[row].Novelty, Step);
        }

        static double Norm(IEnumerable<double> v) => Math.Sqrt(v.Sum(value => value * value));

        static double Spread(double[] v)
        {
            var variance = v.Average(value => Math.Pow(value - v.Average(), 2));
            return variance / (1 + variance);
        }

        static double Cosine(double[] a, double[] b) => Math.Max(0, a.Zip(b, (p, q) => p * q).Sum() / (Norm(a) * Norm(b)));

        static double Novelty(double[] now, double[][] earlier)
        {
            var mean = Enumerable.Range(0, now.Length).Select(i => earlier.Average(token => token[i])).ToArray();
            return Norm(now.Zip(mean, (p, q) => p - q)) / (Norm(now) + Norm(mean));
        }
    }

    [Fact]
    public void ARepeatedTokenIsNotNovelAndNoisyTokensAre()
    {
        using var scope = NewDisposeScope();
        var repeated = ContentFeatures.Measure(Values.Normal(3, 1, 1, 16).expand(1, 50, 16))[0];
        var noise = ContentFeatures.Measure(Values.Normal(3, 1, 50, 16))[0];
        Assert.Equal((1, 0), (repeated.Repetition, repeated.Novelty));
        Assert.True(noise.Novelty > 0.7 && noise.Repetition < 0.3, $"{noise}");

        var policy = new ContentPolicy(null, new LengthThresholdPolicy(10, 100));
        Assert.Equal((Route.Mamba, RoutingReason.RepetitiveContent), Kind(policy.Decide(new RoutingRequest(50) { Content = repeated })));
        Assert.Equal((Route.Attention, RoutingReason.NovelContent), Kind(policy.Decide(new RoutingRequest(50) { Content = noise })));
        Assert.Equal((Route.Mamba, RoutingReason.LongSequenceEfficiency), Kind(policy.Decide(new RoutingRequest(101) { Content = noise })));
        Assert.Equal((Route.Mamba, RoutingReason.LongSequenceEfficiency), Kind(policy.Decide(new RoutingRequest(50))));

        static (Route Route, RoutingReason Reason) Kind(RoutingDecision decision) => (decision.Route, decision.Reason);
    }

    [Theory]
    [InlineData(0.5, Route.Attention, 0.5)]
    [InlineData(1, Route.Attention, 1)]
    [InlineData(0.75, Route.Attention, 0.75)]
    [InlineData(0, Route.Mamba, 1)]
    [InlineData(0.25, Route.Mamba, 0.75)]
    public void ConfidenceIsTheDistanceFromTheThreshold(double novelty, Route route, double confidence)
    {
        var policy = new ContentPolicy(new ContentPolicyOptions { RepetitionWeight = 0 }, new LengthThresholdPolicy(10, 100));
        var decision = policy.Decide(new RoutingRequest(5) { Content = new ContentFeatures(0, novelty, 0) });
        Assert.Equal((route, confidence), (decision.Route, decision.Confidence));
    }

    [Fact]
    public void MeasuringLeavesNoTensorAndNoGradientBehind()
    {
        using var x = Values.Normal(1, 2, 7, 4);
        ContentFeatures.Measure(x);
        var before = LiveTensors.Before();
        ContentFeatures.Measure(x);
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Fact]
    public void ValuesThatAreNoNumbersCountAsNovel()
    {
        using var scope = NewDisposeScope();
        var features = ContentFeatures.Measure(full([1, 4, 3], double.NaN, dtype: ScalarType.Float32))[0];
        Assert.Equal((1, 1), (features.Novelty, features.Variance));
    }

    [Fact]
    public void OptionsOutOfRangeAreNamed()
    {
        var byLength = new LengthThresholdPolicy(10, 100);
        Expect("ContentPolicyOptions.NoveltyWeight must be at least 0; got -1.", new ContentPolicyOptions { NoveltyWeight = -1 });
        Expect("ContentPolicyOptions.ComplexityThreshold must be 0..1; got 2.", new ContentPolicyOptions { ComplexityThreshold = 2 });
        Expect("ContentPolicyOptions.the sum of the weights must be positive; got 0.", new ContentPolicyOptions { NoveltyWeight = 0, RepetitionWeight = 0 });
        Assert.Throws<ArgumentOutOfRangeException>(() => new ContentFeatures(1.1, 0, 0));

        void Expect(string text, ContentPolicyOptions options) => Assert.StartsWith(
            text, Assert.ThrowsAny<ArgumentException>(() => new ContentPolicy(options, byLength)).Message, StringComparison.Ordinal);
    }
}
