using Hybrid.Training;
using Xunit;

namespace Hybrid.Tests.Training;

public class TrainingOptionsTests
{
    // Half a cosine over 1000 steps: cos of a quarter, a half and three quarters of pi.
    [Theory]
    [InlineData(0, 1e-3 / 101)]
    [InlineData(49, 50e-3 / 101)]
    [InlineData(99, 0.1 / 101)]
    [InlineData(100, 1e-3)]
    [InlineData(350, 1e-4 + (9e-4 * 0.85355339059))]
    [InlineData(600, 5.5e-4)]
    [InlineData(850, 1e-4 + (9e-4 * 0.14644660941))]
    [InlineData(1100, 1e-4)]
    [InlineData(9000, 1e-4)]
    public void TheRateWarmsUpAndFollowsACosine(int step, double expected)
    {
        var options = new TrainingOptions { Steps = 1100, WarmupSteps = 100, LearningRate = 1e-3, MinLearningRate = 1e-4 };
        Assert.Equal(expected, options.LearningRateAt(step), 1e-12);
    }

    [Fact]
    public void WithoutWarmupTheRateStartsAtThePeak()
    {
        var options = new TrainingOptions { Steps = 10, WarmupSteps = 0, LearningRate = 0.5, MinLearningRate = 0 };
        Assert.Equal(0.5, options.LearningRateAt(0));
        Assert.Equal(0.25, options.LearningRateAt(5), 1e-12);
        Assert.Equal(0, options.LearningRateAt(10), 1e-12);
    }

    [Fact]
    public void AWarmupLongerThanTheRunIsCutByIt()
    {
        var options = new TrainingOptions { Steps = 10, WarmupSteps = 20, LearningRate = 0.21 };
        Assert.Equal(0.1, options.LearningRateAt(9), 1e-12);
    }

    [Fact]
    public void OptionsOutOfRangeAreNamed()
    {
        new TrainingOptions().Validate();
        Expect("Steps must be at least 1; got 0.", new() { Steps = 0 });
        Expect("BatchSize must be at least 1; got 0.", new() { BatchSize = 0 });
        Expect("SequenceLength must be at least 1; got 0.", new() { SequenceLength = 0 });
        Expect("LearningRate must be positive; got 0.", new() { LearningRate = 0 });
        Expect("MinLearningRate must be 0..0.001; got 0.01.", new() { MinLearningRate = 0.01 });
        Expect("MinLearningRate must be 0..0.001; got -1.", new() { MinLearningRate = -1 });
        Expect("WarmupSteps must be at least 0; got -1.", new() { WarmupSteps = -1 });
        Expect("WeightDecay must be at least 0; got -0.1.", new() { WeightDecay = -0.1 });
        Expect("Beta1 must be 0 or more and below 1; got 1.", new() { Beta1 = 1 });
        Expect("Beta2 must be 0 or more and below 1; got 1.", new() { Beta2 = 1 });
        Expect("GradientClip must be at least 0; got -1.", new() { GradientClip = -1 });
        Expect("ValidationFraction must be positive; got 0.", new() { ValidationFraction = 0 });
        Expect("ValidationFraction must be 0 or more and below 1; got 1.", new() { ValidationFraction = 1 });
        Expect("EvalEvery must be at least 1; got 0.", new() { EvalEvery = 0 });
        Expect("ExploreEvery must be at least 0; got -1.", new() { ExploreEvery = -1 });

        static void Expect(string text, TrainingOptions options) => Assert.StartsWith(
            $"TrainingOptions.{text}", Assert.Throws<ArgumentOutOfRangeException>(options.Validate).Message, StringComparison.Ordinal);
    }
}
