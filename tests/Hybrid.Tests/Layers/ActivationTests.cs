using Hybrid.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

public class ActivationTests
{
    private static readonly double[] Points = [-3, -0.5, 0, 0.5, 3];

    // silu(x) = x / (1 + e^-x) and gelu(x) = x Phi(x), from tables of the logistic and the normal distribution.
    [Theory]
    [InlineData(Activation.Identity, new[] { -3, -0.5, 0, 0.5, 3 })]
    [InlineData(Activation.Silu, new[] { -0.14227762, -0.18877033, 0, 0.31122967, 2.85772238 })]
    [InlineData(Activation.Gelu, new[] { -0.00404969, -0.15426877, 0, 0.34573123, 2.99595031 })]
    [InlineData(Activation.Relu, new[] { 0.0, 0, 0, 0.5, 3 })]
    public void HasTheTabulatedValues(Activation activation, double[] expected)
    {
        using var scope = NewDisposeScope();
        var actual = Values.Of(activation.Apply(Values.Tensor32(Points, 5)));
        for (var i = 0; i < Points.Length; i++)
        {
            Assert.Equal(expected[i], actual[i], 1e-6);
        }
    }

    [Fact]
    public void AnUnknownValueIsNamed()
    {
        using var scope = NewDisposeScope();
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => ((Activation)17).Apply(zeros(1)));
        Assert.StartsWith("Activation: unknown value 17.", error.Message, StringComparison.Ordinal);
    }
}
