using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

public class RmsNormTests
{
    [Fact]
    public void DividesByTheRootMeanSquare()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(2, 1e-12);

        // Mean square of (3, 4) is 12.5, of (0, -2) it is 2.
        var y = Values.Of(norm.call(Values.Tensor32([3, 4, 0, -2], 2, 2)));
        Assert.Equal(3 / Math.Sqrt(12.5), y[0], 1e-6);
        Assert.Equal(4 / Math.Sqrt(12.5), y[1], 1e-6);
        Assert.Equal(0, y[2]);
        Assert.Equal(-Math.Sqrt(2), y[3], 1e-6);
    }

    [Fact]
    public void EpsilonStandsInsideTheRoot()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(2, 0.5);
        var y = Values.Of(norm.call(Values.Tensor32([1, 1], 1, 2)));
        Assert.Equal(1 / Math.Sqrt(1.5), y[0], 1e-6);
    }

    [Fact]
    public void TheWeightScalesEachChannel()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(3);
        Assert.Equal(["weight"], norm.state_dict().Keys);
        Assert.Equal([1, 1, 1], Values.Of(norm.get_parameter("weight")!));
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = Values.Tensor32([2, -1, 0], 3) });
        var y = Values.Of(norm.call(Values.Tensor32([1, 1, 1], 1, 1, 3)));
        Assert.Equal(2, y[0], 2e-5);
        Assert.Equal(-1, y[1], 1e-5);
        Assert.Equal(0, y[2]);
    }

    [Fact]
    public void AFactorOfOnePlusWeightStartsAtOne()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(3, scale: NormScale.OnePlusWeight);
        using var plain = new RmsNorm(3);
        var x = Values.Tensor32([0.5f, -2, 3], 1, 1, 3);
        Assert.Equal(Values.Of(plain.call(x)), Values.Of(norm.call(x)));
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = Values.Tensor32([1, -1, 0], 3) });
        plain.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = Values.Tensor32([2, 0, 1], 3) });
        Assert.Equal(Values.Of(plain.call(x)), Values.Of(norm.call(x)));
    }

    [Fact]
    public void WithoutAScaleThereAreNoParameters()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(3, scale: NormScale.None);
        using var plain = new RmsNorm(3);
        var x = Values.Tensor32([0.5f, -2, 3], 1, 1, 3);
        Assert.Empty(norm.parameters());
        Assert.Equal(Values.Of(plain.call(x)), Values.Of(norm.call(x)));
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.Float64)]
    public void KeepsTheTypeOfTheInput(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(4);
        norm.to(dtype);
        var y = norm.call(ones(2, 4).to_type(dtype));
        Assert.Equal(dtype, y.dtype);
        Assert.Equal([2, 4], y.shape);
    }

    [Fact]
    public void HalfPrecisionInputsAreSquaredInFloat32()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(4);
        norm.to(ScalarType.Float16);

        // 300 is a half, its square is not: in half precision the norm would be infinite and the output 0.
        var y = Values.Of(norm.call(Values.Tensor32([300, -300, 300, 300], 1, 4).to_type(ScalarType.Float16)));
        Assert.Equal([1, -1, 1, 1], y);
    }

    [Fact]
    public void Bfloat16IsRoundedTwiceOnly()
    {
        // One rounding to 8 bits after the norm and one after the weight: 2^-8 each, relative to the element.
        const double bound = 2.02 / 256;
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(48);
        norm.to(ScalarType.BFloat16);
        var x = Values.Normal(3, 20, 48).to_type(ScalarType.BFloat16);
        var weight = Values.Normal(4, 48).to_type(ScalarType.BFloat16);
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = weight });
        var (input, scale, actual) = (Values.Of(x), Values.Of(weight), Values.Of(norm.call(x)));
        for (var row = 0; row < 20; row++)
        {
            var meanSquare = input.Skip(row * 48).Take(48).Average(value => value * value);
            for (var i = 0; i < 48; i++)
            {
                var expected = input[(row * 48) + i] / Math.Sqrt(meanSquare + 1e-5) * scale[i];
                Assert.True(
                    Math.Abs(actual[(row * 48) + i] - expected) <= bound * Math.Abs(expected),
                    $"[{row}, {i}]: expected {expected}, got {actual[(row * 48) + i]}");
            }
        }
    }

    [Fact]
    public void GradientsAgreeWithFiniteDifferences()
    {
        using var norm = new RmsNorm(5);
        norm.to(ScalarType.Float64);
        using var x = Values.Normal(5, 3, 5).to_type(ScalarType.Float64);
        FiniteDifferences.Check(inputs => [norm.call(inputs[0])], [x]);
    }

    [Fact]
    public void WrongWidthsAndOptionsAreNamed()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(4);
        var error = Assert.Throws<ArgumentException>(() => norm.call(zeros(2, 3)));
        Assert.StartsWith("RmsNorm: the input must be [..., 4]; got [2, 3].", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new RmsNorm(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new RmsNorm(4, 0));
    }
}
