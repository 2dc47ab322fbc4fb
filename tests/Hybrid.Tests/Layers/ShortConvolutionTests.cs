using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

public class ShortConvolutionTests
{
    [Fact]
    public void WeightsAreThoseOfAGroupedConv1d()
    {
        using var layer = new ShortConvolution(6, 4);
        Assert.Equal(["bias", "weight"], layer.state_dict().Keys.Order(StringComparer.Ordinal));
        Assert.Equal([6, 1, 4], layer.get_parameter("weight")!.shape);
        Assert.Equal([6], layer.get_parameter("bias")!.shape);
        using var bare = new ShortConvolution(6, 4, hasBias: false);
        Assert.Equal(["weight"], bare.state_dict().Keys);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [InlineData(9)]
    public void InitialWeightsFillTheRangeOfADepthwiseConv1d(long taps)
    {
        // Uniform in +-1/sqrt(fan-in); the fan-in of a depthwise convolution is W.
        var bound = 1 / Math.Sqrt(taps);
        manual_seed(1);
        using var layer = new ShortConvolution(1000, taps);
        foreach (var name in new[] { "weight", "bias" })
        {
            var values = Values.Of(layer.get_parameter(name)!);
            Assert.All(values, value => Assert.InRange(value, -bound, bound));
            Assert.True(values.Max() > 0.98 * bound && values.Min() < -0.98 * bound, $"{name} must reach both ends");
            Assert.Equal(bound / Math.Sqrt(3), Math.Sqrt(values.Average(value => value * value)), 0.05 * bound);
        }
    }

    [Fact]
    public void EachChannelSeesItsOwnPastAlone()
    {
        using var scope = NewDisposeScope();
        using var layer = new ShortConvolution(2, 3, activation: Activation.Identity);
        layer.load_state_dict(new Dictionary<string, Tensor>
        {
            ["weight"] = Values.Tensor32([1, 10, 100, 2, 20, 200], 2, 1, 3),
            ["bias"] = Values.Tensor32([0.5, 0], 2),
        });

        // Channel 0 reads 1, 2, 3; channel 1 reads 4, 5, 6. The last tap is the current token.
        var y = Values.Of(layer.call(Values.Tensor32([1, 4, 2, 5, 3, 6], 1, 3, 2)));
        Assert.Equal([100.5, 800, 210.5, 1080, 321.5, 1308], y);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    public void AStateContinuesTheConvolution(long taps)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var layer = new ShortConvolution(3, taps);
        var x = Values.Normal(2, 2, 8, 3);
        var whole = layer.call(x);
        for (var split = 1; split < 8; split++)
        {
            var (first, state) = layer.forward(x.narrow(1, 0, split), null);
            var (second, last) = layer.forward(x.narrow(1, split, 8 - split), state);
            TensorAssert.Close(whole, cat([first, second], 1), 1e-6, $"split at {split}");
            Assert.Equal([2, taps - 1, 3], last.shape);
            Assert.Equal(Values.Of(x.narrow(1, 8 - (taps - 1), taps - 1)), Values.Of(last));
        }
    }

    [Fact]
    public void SizesBelowOneAreRefused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new ShortConvolution(0, 4));
        Assert.Throws<ArgumentOutOfRangeException>(() => new ShortConvolution(4, 0));
    }
}
