using Hybrid.Training;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Training;

public class LossScalerTests
{
    [Fact]
    public void TheScaleMovesAsPyTorchsDoes()
    {
        var scaler = new LossScaler(new LossScalerOptions { InitialScale = 1024, GrowthInterval = 3 });
        Assert.Equal([1024, 1024, 2048, 1024, 1024, 512, 512, 512, 1024], new[] { true, true, true, false, true, false, true, true, true }.Select(Next));
        Assert.Equal((0, 2), (scaler.GrowthSteps, scaler.SkippedSteps));
        Assert.Equal(65536, new LossScaler().Scale);

        double Next(bool finite)
        {
            scaler.Update(finite);
            return scaler.Scale;
        }
    }

    [Theory]
    [InlineData(0f, true)]
    [InlineData(65504f, true)]
    [InlineData(float.NaN, false)]
    [InlineData(float.PositiveInfinity, false)]
    [InlineData(float.NegativeInfinity, false)]
    public void OneValueThatIsNotFiniteAmongTheGradientsIsFound(float value, bool expected)
    {
        using var scope = NewDisposeScope();
        var (first, second, none) = (new Parameter(zeros(3)), new Parameter(zeros(2, 2)), new Parameter(zeros(1)));
        first.grad = ones(3);
        second.grad = tensor(new[] { 1f, 2f, value, 3f }).view(2, 2);
        Assert.Equal(expected, LossScaler.AreFinite([first, second, none]));
        Assert.True(LossScaler.AreFinite([none]));
    }

    [Fact]
    public void TheLossIsMultipliedAndMustNotBeFloat16()
    {
        using var scope = NewDisposeScope();
        var scaler = new LossScaler();
        Assert.Equal(2.5 * 65536, scaler.Apply(tensor(2.5f)).item<float>());
        Assert.Contains("must be Float32", Assert.Throws<ArgumentException>(() => scaler.Apply(tensor(2.5f).to_type(ScalarType.Float16))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void BadOptionsAreNamed()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new LossScaler(new() { InitialScale = 0 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new LossScaler(new() { GrowthFactor = 1 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new LossScaler(new() { BackoffFactor = 1 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new LossScaler(new() { GrowthInterval = 0 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new LossScaler().Restore(double.NaN, 0, 0));
    }
}
