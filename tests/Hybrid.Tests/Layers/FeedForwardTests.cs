using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

public class FeedForwardTests
{
    private const int Width = 3;
    private const int Inner = 5;

    [Theory]
    [InlineData(FeedForwardKind.Gelu, 64, 256)]
    [InlineData(FeedForwardKind.Gelu, 10, 40)]
    [InlineData(FeedForwardKind.SquaredRelu, 10, 40)]
    [InlineData(FeedForwardKind.Swiglu, 64, 176)]   // 512 / 3 = 170.67
    [InlineData(FeedForwardKind.Swiglu, 96, 256)]   // 256 exactly
    [InlineData(FeedForwardKind.Swiglu, 3, 8)]      // 8 exactly
    [InlineData(FeedForwardKind.Swiglu, 1, 8)]
    [InlineData(FeedForwardKind.Swiglu, 100, 272)]  // 266.67
    public void TheDefaultInnerWidthFollowsTheForm(FeedForwardKind kind, long width, long expected)
    {
        Assert.Equal(expected, new FeedForwardOptions { Kind = kind }.ResolveIntermediateSize(width));
        using var layer = new FeedForward(width, new FeedForwardOptions { Kind = kind });
        Assert.Equal([expected, width], layer.get_parameter("up_proj.weight")!.shape);
    }

    [Fact]
    public void SwigluGatesAndHasNoBiases()
    {
        using var scope = NewDisposeScope();
        using var layer = new FeedForward(Width, new FeedForwardOptions { IntermediateSize = Inner });
        Assert.Equal(
            ["down_proj.weight", "gate_proj.weight", "up_proj.weight"], layer.state_dict().Keys.Order(StringComparer.Ordinal));
        var x = Values.Normal(1, 2, 4, Width);
        var (gate, up) = (Project(layer, "gate_proj", x, Inner), Project(layer, "up_proj", x, Inner));
        Check(layer, x, [.. gate.Zip(up, (g, u) => Values.Silu(g) * u)]);
    }

    [Fact]
    public void GeluIsPlainAndHasBiases()
    {
        using var scope = NewDisposeScope();
        using var layer = new FeedForward(Width, new FeedForwardOptions { Kind = FeedForwardKind.Gelu, IntermediateSize = Inner });
        Assert.Equal(
            ["down_proj.bias", "down_proj.weight", "up_proj.bias", "up_proj.weight"], layer.state_dict().Keys.Order(StringComparer.Ordinal));
        var x = Values.Normal(1, 2, 4, Width);
        Check(layer, x, [.. Project(layer, "up_proj", x, Inner).Select(u => u * 0.5 * (1 + Erf(u / Math.Sqrt(2))))]);
    }

    [Fact]
    public void GegluTanhGatesAndHasBiases()
    {
        using var scope = NewDisposeScope();
        using var layer = new FeedForward(Width, new FeedForwardOptions { Kind = FeedForwardKind.GegluTanh, IntermediateSize = Inner });
        Assert.Equal(6, layer.state_dict().Count);
        var x = Values.Normal(1, 2, 4, Width);
        var (gate, up) = (Project(layer, "gate_proj", x, Inner), Project(layer, "up_proj", x, Inner));
        Check(layer, x, [.. gate.Zip(up, (g, u) => 0.5 * g * (1 + Math.Tanh(Math.Sqrt(2 / Math.PI) * (g + (0.044715 * g * g * g)))) * u)]);
    }

    [Fact]
    public void MultipliersScaleTheGateBeforeItsActivationAndTheOutput()
    {
        using var scope = NewDisposeScope();
        using var plain = new FeedForward(Width, new FeedForwardOptions { IntermediateSize = Inner, UseBias = true });
        using var scaled = new FeedForward(
            Width, new FeedForwardOptions { IntermediateSize = Inner, UseBias = true, GateMultiplier = 0.7, OutputMultiplier = 1.5 });
        scaled.load_state_dict(plain.state_dict());
        var gate = plain.get_parameter("gate_proj.weight")!;
        var bias = plain.get_parameter("gate_proj.bias")!;
        var x = Values.Normal(1, 2, 4, Width);
        using (no_grad())
        {
            gate.mul_(0.7);
            bias.mul_(0.7);
            TensorAssert.Close(plain.call(x) * 1.5, scaled.call(x), 1e-6, "output");
        }

        var error = Assert.Throws<ArgumentException>(() => new FeedForwardOptions { Kind = FeedForwardKind.Gelu, GateMultiplier = 2 }.Validate());
        Assert.Contains("GateMultiplier must be 1 for Gelu, which has no gate; got 2", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void SquaredReluIsPlainAndHasNoBiases()
    {
        using var scope = NewDisposeScope();
        using var layer = new FeedForward(Width, new FeedForwardOptions { Kind = FeedForwardKind.SquaredRelu, IntermediateSize = Inner });
        Assert.Equal(["down_proj.weight", "up_proj.weight"], layer.state_dict().Keys.Order(StringComparer.Ordinal));
        var x = Values.Normal(1, 2, 4, Width);
        Check(layer, x, [.. Project(layer, "up_proj", x, Inner).Select(u => u > 0 ? u * u : 0)]);
    }

    [Fact]
    public void SizesBelowOneAreRefused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new FeedForward(0));
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new FeedForward(4, new FeedForwardOptions { IntermediateSize = 0 }));
        Assert.StartsWith("FeedForwardOptions.IntermediateSize must be at least 1; got 0.", error.Message, StringComparison.Ordinal);
    }

    private static void Check(FeedForward layer, Tensor x, double[] inner)
    {
        var y = layer.call(x);
        Assert.Equal(x.shape, y.shape);
        var (actual, expected) = (Values.Of(y), Linear(layer, "down_proj", inner, Inner, Width));
        for (var i = 0; i < actual.Length; i++)
        {
            Assert.Equal(expected[i], actual[i], 1e-6);
        }
    }

    private static double[] Project(FeedForward layer, string name, Tensor x, int outputs) => Linear(layer, name, Values.Of(x), Width, outputs);

    /// <summary>Rows of x times the transposed weight, plus the bias if there is one.</summary>
    private static double[] Linear(FeedForward layer, string name, double[] x, int inputs, int outputs)
    {
        var weight = Values.Of(layer.get_parameter(name + ".weight")!);
        var bias = layer.state_dict().TryGetValue(name + ".bias", out var found) ? Values.Of(found) : new double[outputs];
        var y = new double[x.Length / inputs * outputs];
        for (var i = 0; i < y.Length; i++)
        {
            var (row, output) = (i / outputs, i % outputs);
            y[i] = bias[output] + Enumerable.Range(0, inputs).Sum(j => weight[(output * inputs) + j] * x[(row * inputs) + j]);
        }

        return y;
    }

    /// <summary>The error function by its Taylor series, which converges for every argument that occurs here.</summary>
    private static double Erf(double x)
    {
        var (term, sum) = (x, x);
        for (var n = 1; n < 200; n++)
        {
            term *= -x * x / n;
            sum += term / ((2 * n) + 1);
        }

        return 2 / Math.Sqrt(Math.PI) * sum;
    }
}
