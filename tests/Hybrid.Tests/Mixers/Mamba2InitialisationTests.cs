using Hybrid.Mixers;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class Mamba2InitialisationTests
{
    [Fact]
    public void DecayRatesAreUniformBetweenOneAndSixteen()
    {
        manual_seed(9);
        using var mixer = new Mamba2Mixer(1024, new Mamba2Options { HeadDim = 1, DState = 1 });
        var parameter = mixer.get_parameter("A_log")!;
        Assert.Equal([2048], parameter.shape);
        Assert.Equal(ScalarType.Float32, parameter.dtype);
        var rates = Values.Of(parameter).Select(Math.Exp).ToArray();
        Assert.All(rates, rate => Assert.InRange(rate, 1 - 1e-6, 16 * (1 + 1e-6)));
        AssertUniform([.. rates.Select(rate => (rate - 1) / 15)]);
    }

    [Fact]
    public void SkipsAndNormWeightsAreOne()
    {
        using var mixer = new Mamba2Mixer(6, new Mamba2Options { HeadDim = 3 });
        Assert.Equal([1, 1, 1, 1], Values.Of(mixer.get_parameter("D")!));
        Assert.Equal(Enumerable.Repeat(1.0, 12), Values.Of(mixer.get_parameter("norm.weight")!));
    }

    [Theory]
    [InlineData(1e-3, 0.1)]
    [InlineData(0.01, 0.5)]
    public void StepSizesAreLogUniformBetweenTheirBounds(double low, double high)
    {
        manual_seed(9);
        using var mixer = new Mamba2Mixer(1024, new Mamba2Options { HeadDim = 1, DState = 1, DtMin = low, DtMax = high });
        var steps = StepSizes(mixer);
        Assert.Equal(2048, steps.Length);

        // float32 holds the bias to 6e-8 of its size (at most about 7), which is what the step size is known to.
        Assert.All(steps, step => Assert.InRange(step, low * (1 - 2e-6), high * (1 + 2e-6)));
        AssertUniform([.. steps.Select(step => Math.Log(step / low) / Math.Log(high / low))]);
    }

    [Fact]
    public void TheFloorLiftsSmallerStepSizes()
    {
        manual_seed(9);
        using var mixer = new Mamba2Mixer(64, new Mamba2Options { HeadDim = 1, DtMin = 1e-6, DtMax = 1e-2, DtInitFloor = 1e-3 });
        var steps = StepSizes(mixer);
        Assert.All(steps, step => Assert.InRange(step, 1e-3 * (1 - 2e-6), 1e-2 * (1 + 2e-6)));
        Assert.True(steps.Count(step => step < 1.00001e-3) > 64, "three quarters of the draws are below the floor");
    }

    [Fact]
    public void TheDefaultsAreThoseOfThePaper()
    {
        using var mixer = new Mamba2Mixer(128);
        Assert.Equal(256, mixer.InnerWidth);
        Assert.Equal(4, mixer.Heads);
        Assert.Equal([(2 * 256) + (2 * 128) + 4, 128], mixer.get_parameter("in_proj.weight")!.shape);
        Assert.Equal([256 + (2 * 128), 1, 4], mixer.get_parameter("conv1d.weight")!.shape);
        Assert.Equal([128, 256], mixer.get_parameter("out_proj.weight")!.shape);
        Assert.Equal(
            ["A_log", "D", "conv1d.bias", "conv1d.weight", "dt_bias", "in_proj.weight", "norm.weight", "out_proj.weight"],
            mixer.state_dict().Keys.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void OptionsAddTheParametersTheyName()
    {
        using var mixer = new Mamba2Mixer(32, new Mamba2Options { UseBias = true, UseConvBias = false });
        Assert.Equal(
            ["A_log", "D", "conv1d.weight", "dt_bias", "in_proj.bias", "in_proj.weight", "norm.weight", "out_proj.bias", "out_proj.weight"],
            mixer.state_dict().Keys.Order(StringComparer.Ordinal));
    }

    public static TheoryData<string, Mamba2Options> BadOptions => new()
    {
        { ".DState must be at least 1; got 0.", new Mamba2Options { DState = 0 } },
        { ".DConv must be at least 1; got 0.", new Mamba2Options { DConv = 0 } },
        { ".ExpandFactor must be at least 1; got -2.", new Mamba2Options { ExpandFactor = -2 } },
        { ".HeadDim must be at least 1; got 0.", new Mamba2Options { HeadDim = 0 } },
        { ".NGroups must be at least 1; got 0.", new Mamba2Options { NGroups = 0 } },
        { ".ChunkSize must be at least 1; got 0.", new Mamba2Options { ChunkSize = 0 } },
        { ".NormGroups must be at least 1; got 0.", new Mamba2Options { NormGroups = 0 } },
        { ".DtMin must be positive; got 0.", new Mamba2Options { DtMin = 0 } },
        { ".DtMin must be positive; got NaN.", new Mamba2Options { DtMin = double.NaN } },
        { ".DtMax must be at least 0.001; got 0.0001.", new Mamba2Options { DtMax = 1e-4 } },
        { ".DtInitFloor must be positive; got 0.", new Mamba2Options { DtInitFloor = 0 } },
        { ".DtLimitMin must be at least 0; got -1.", new Mamba2Options { DtLimitMin = -1 } },
        { ".DtLimitMax must be at least 0.5; got 0.25.", new Mamba2Options { DtLimitMin = 0.5, DtLimitMax = 0.25 } },
        { ".NormEps must be positive; got 0.", new Mamba2Options { NormEps = 0 } },
        { ": HeadDim must divide the inner width, 64; got 24.", new Mamba2Options { HeadDim = 24 } },
        { ": NGroups must divide the number of heads, 4; got 3.", new Mamba2Options { HeadDim = 16, NGroups = 3 } },
        { ": NormGroups must divide the inner width, 64; got 5.", new Mamba2Options { NormGroups = 5 } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void BadOptionsAreNamed(string text, Mamba2Options options)
    {
        var error = Assert.ThrowsAny<ArgumentException>(() => new Mamba2Mixer(32, options));
        Assert.StartsWith("Mamba2Options" + text, error.Message, StringComparison.Ordinal);
    }

    /// <summary>Each quarter has a quarter of the 2048 draws, give or take 4 standard deviations (19.6 each).</summary>
    private static void AssertUniform(double[] shares)
    {
        Assert.Equal(2048, shares.Length);
        for (var bin = 0; bin < 4; bin++)
        {
            Assert.InRange(shares.Count(share => share >= bin / 4.0 && share < (bin + 1) / 4.0), 512 - 79, 512 + 79);
        }
    }

    /// <summary>softplus of the step-size biases.</summary>
    private static double[] StepSizes(Mamba2Mixer mixer) =>
        [.. Values.Of(mixer.get_parameter("dt_bias")!).Select(bias => Math.Log(1 + Math.Exp(bias)))];
}
