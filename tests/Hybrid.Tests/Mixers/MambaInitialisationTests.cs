using Hybrid.Mixers;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class MambaInitialisationTests
{
    [Fact]
    public void DecayRatesAreOneToN()
    {
        using var mixer = new MambaMixer(6, new MambaOptions { DState = 7, ExpandFactor = 3 });
        var parameter = mixer.get_parameter("A_log")!;
        Assert.Equal([18, 7], parameter.shape);
        Assert.Equal(ScalarType.Float32, parameter.dtype);
        var values = Values.Of(parameter);
        for (var i = 0; i < values.Length; i++)
        {
            Assert.Equal(Math.Log((i % 7) + 1), values[i], 1e-6);
        }
    }

    [Fact]
    public void SkipsAreOne()
    {
        using var mixer = new MambaMixer(6);
        Assert.Equal(Enumerable.Repeat(1.0, 12), Values.Of(mixer.get_parameter("D")!));
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(15, 1)]
    [InlineData(16, 1)]
    [InlineData(17, 2)]
    [InlineData(768, 48)]
    public void TheStepRankIsASixteenthOfTheWidthRoundedUp(long width, long expected)
    {
        Assert.Equal(expected, new MambaOptions().ResolveDtRank(width));
        using var mixer = new MambaMixer(width, new MambaOptions { DState = 2 });
        Assert.Equal([2 * width, expected], mixer.get_parameter("dt_proj.weight")!.shape);
        Assert.Equal([expected + 4, 2 * width], mixer.get_parameter("x_proj.weight")!.shape);
    }

    [Theory]
    [InlineData(1e-3, 0.1)]
    [InlineData(0.01, 0.5)]
    public void StepSizesAreLogUniformBetweenTheirBounds(double low, double high)
    {
        manual_seed(9);
        using var mixer = new MambaMixer(2048, new MambaOptions { DState = 1, DtRank = 1, DtMin = low, DtMax = high });
        var steps = StepSizes(mixer);
        Assert.Equal(4096, steps.Length);

        // float32 holds the bias to 6e-8 of its size (at most about 7), which is what the step size is known to.
        Assert.All(steps, step => Assert.InRange(step, low * (1 - 2e-6), high * (1 + 2e-6)));

        // The logs of 4096 uniform draws: each of four bins has a quarter, give or take 4 standard deviations (27.7 each).
        var logs = steps.Select(step => Math.Log(step / low) / Math.Log(high / low)).ToArray();
        for (var bin = 0; bin < 4; bin++)
        {
            Assert.InRange(logs.Count(log => log >= bin / 4.0 && log < (bin + 1) / 4.0), 1024 - 111, 1024 + 111);
        }
    }

    [Fact]
    public void TheFloorLiftsSmallerStepSizes()
    {
        manual_seed(9);
        using var mixer = new MambaMixer(64, new MambaOptions { DtMin = 1e-6, DtMax = 1e-2, DtInitFloor = 1e-3 });
        var steps = StepSizes(mixer);
        Assert.All(steps, step => Assert.InRange(step, 1e-3 * (1 - 2e-6), 1e-2 * (1 + 2e-6)));
        Assert.True(steps.Count(step => step < 1.00001e-3) > 64, "three quarters of the draws are below the floor");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(9)]
    public void TheStepProjectionIsUniformByItsRank(long rank)
    {
        var bound = 1 / Math.Sqrt(rank);
        manual_seed(9);
        using var mixer = new MambaMixer(256, new MambaOptions { DtRank = rank });
        var values = Values.Of(mixer.get_parameter("dt_proj.weight")!);
        Assert.All(values, value => Assert.InRange(value, -bound * (1 + 1e-6), bound * (1 + 1e-6)));
        Assert.True(values.Max() > 0.97 * bound && values.Min() < -0.97 * bound);
    }

    [Fact]
    public void OptionsAddTheParametersTheyName()
    {
        Assert.Equal(
            ["A_log", "D", "conv1d.bias", "conv1d.weight", "dt_proj.bias", "dt_proj.weight", "in_proj.weight", "out_proj.weight", "x_proj.weight"],
            NamesOf(new MambaOptions()));
        Assert.Equal(
            [
                "A_log", "D", "b_layernorm.weight", "c_layernorm.weight", "conv1d.weight", "dt_layernorm.weight", "dt_proj.bias",
                "dt_proj.weight", "in_proj.bias", "in_proj.weight", "out_proj.bias", "out_proj.weight", "x_proj.weight",
            ],
            NamesOf(new MambaOptions { UseBias = true, UseConvBias = false, UseInnerNorms = true }));

        static IEnumerable<string> NamesOf(MambaOptions options)
        {
            using var mixer = new MambaMixer(8, options);
            return [.. mixer.state_dict().Keys.Order(StringComparer.Ordinal)];
        }
    }

    public static TheoryData<string, MambaOptions> BadOptions => new()
    {
        { "DState must be at least 1; got 0", new MambaOptions { DState = 0 } },
        { "DConv must be at least 1; got 0", new MambaOptions { DConv = 0 } },
        { "ExpandFactor must be at least 1; got -2", new MambaOptions { ExpandFactor = -2 } },
        { "DtRank must be at least 1; got 0", new MambaOptions { DtRank = 0 } },
        { "DtMin must be positive; got 0", new MambaOptions { DtMin = 0 } },
        { "DtMax must be at least 0.001; got 0.0001", new MambaOptions { DtMax = 1e-4 } },
        { "DtInitFloor must be positive; got 0", new MambaOptions { DtInitFloor = 0 } },
        { "DtLimitMin must be at least 0; got -1", new MambaOptions { DtLimitMin = -1 } },
        { "DtLimitMax must be at least 0.5; got 0.25", new MambaOptions { DtLimitMin = 0.5, DtLimitMax = 0.25 } },
        { "DtMin must be positive; got NaN", new MambaOptions { DtMin = double.NaN } },
        { "InnerNormEps must be positive; got 0", new MambaOptions { InnerNormEps = 0 } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, MambaOptions options)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new MambaMixer(8, options));
        Assert.StartsWith($"MambaOptions.{text}.", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AWidthBelowOneIsRefused()
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new MambaMixer(0));
        Assert.StartsWith("MambaMixer: the width must be at least 1; got 0.", error.Message, StringComparison.Ordinal);
    }

    /// <summary>softplus of the step-size biases.</summary>
    private static double[] StepSizes(MambaMixer mixer) =>
        [.. Values.Of(mixer.get_parameter("dt_proj.bias")!).Select(bias => Math.Log(1 + Math.Exp(bias)))];
}
