using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class GatedSsmMixerTests
{
    // Both sides compute the same numbers, one of them in float32, over at most 100 steps.
    private const double Tolerance = 1e-5;

    [Theory]
    [InlineData(1, true, false)]
    [InlineData(2, false, false)]
    [InlineData(63, true, true)]
    [InlineData(65, false, true)]
    [InlineData(100, true, false)]
    public void EqualsTheFormulaTokenByToken(int time, bool inputDependent, bool bias)
    {
        const int width = 3, inner = 6;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new GatedSsmMixer(width, new GatedSsmOptions { InputDependentDecay = inputDependent, UseBias = bias });
        var x = Values.Normal(6, 1, time, width);
        var weights = mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));

        var expected = new List<double>();
        var h = new double[inner];
        foreach (var token in Values.Of(x).Chunk(width))
        {
            var projected = Product("in_proj", token, 2 * inner);
            var change = inputDependent ? Product("decay_proj", token, inner) : new double[inner];
            for (var e = 0; e < inner; e++)
            {
                var a = Values.Sigmoid(weights["decay"][e] + change[e]);
                h[e] = (a * h[e]) + ((1 - a) * projected[e]);
            }

            expected.AddRange(Product("out_proj", [.. h.Select((value, e) => value * Values.Sigmoid(projected[inner + e]))], width));
        }

        using var state = (GatedSsmState)mixer.CreateState(1);
        var y = mixer.forward(x, new MixerContext { State = state });
        TensorAssert.Close(Values.Tensor32([.. expected], 1, time, width), y, Tolerance, "y");
        TensorAssert.Close(Values.Tensor32(h, 1, inner), state.Average, Tolerance, "the state");

        double[] Product(string name, double[] input, int rows) =>
            [.. Enumerable.Range(0, rows).Select(row =>
                input.Select((value, column) => value * weights[name + ".weight"][(row * input.Length) + column]).Sum()
                + (weights.GetValueOrDefault(name + ".bias")?[row] ?? 0))];
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void GradientsAgreeWithFiniteDifferences(bool inputDependent)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        using var mixer = new GatedSsmMixer(3, new GatedSsmOptions { InputDependentDecay = inputDependent });
        mixer.to(ScalarType.Float64);
        FiniteDifferences.Check(x => [mixer.call(x[0])], [randn([2, 9, 3], dtype: ScalarType.Float64)]);
    }

    [Fact]
    public void AveragesNeverLeaveTheRangeOfTheValues()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(4);
        using var mixer = new GatedSsmMixer(4);
        using var state = (GatedSsmState)mixer.CreateState(1);
        var x = Values.Normal(7, 1, 500, 4) * 1e6;
        var values = nn.functional.linear(x, mixer.get_parameter("in_proj.weight")!.narrow(0, 0, 8));
        mixer.forward(x, new MixerContext { State = state });
        Assert.True(state.Average.abs().le(values.abs().amax([0, 1])).all().ToBoolean());
        Assert.True(state.Average.isfinite().all().ToBoolean());
    }

    [Theory]
    [InlineData(2, 256)]
    [InlineData(10, 20)]
    public void TimeScalesStartLogUniformBetweenTheirBounds(double low, double high)
    {
        manual_seed(9);
        using var mixer = new GatedSsmMixer(2048, new GatedSsmOptions { InputDependentDecay = false, TimescaleMin = low, TimescaleMax = high });
        var scales = Values.Of(mixer.get_parameter("decay")!).Select(logit => 1 + Math.Exp(logit)).ToArray();
        Assert.All(scales, scale => Assert.InRange(scale, low * (1 - 1e-5), high * (1 + 1e-5)));

        // Each of four bins has a quarter of the logs of 4096 draws, give or take 4 standard deviations (27.7 each).
        var logs = scales.Select(scale => Math.Log(scale / low) / Math.Log(high / low)).ToArray();
        for (var bin = 0; bin < 4; bin++)
        {
            Assert.InRange(logs.Count(log => log >= bin / 4.0 && log < (bin + 1) / 4.0), 1024 - 111, 1024 + 111);
        }
    }

    [Fact]
    public void DecaysHaveNoWeightDecay()
    {
        using var mixer = new GatedSsmMixer(4);
        Assert.Same(mixer.get_parameter("decay"), Assert.Single(mixer.ParametersWithoutWeightDecay));
        Assert.Same(mixer.get_parameter("out_proj.weight"), Assert.Single(mixer.ResidualOutputWeights));
        Assert.Equal(["decay", "decay_proj.weight", "in_proj.weight", "out_proj.weight"], mixer.state_dict().Keys.Order(StringComparer.Ordinal));
    }

    public static TheoryData<string, GatedSsmOptions> BadOptions => new()
    {
        { "ExpandFactor must be at least 1; got 0", new GatedSsmOptions { ExpandFactor = 0 } },
        { "TimescaleMin must be at least 1.01; got 1", new GatedSsmOptions { TimescaleMin = 1 } },
        { "TimescaleMax must be at least 4; got 3", new GatedSsmOptions { TimescaleMin = 4, TimescaleMax = 3 } },
        { "TimescaleMax must be positive; got Infinity", new GatedSsmOptions { TimescaleMax = double.PositiveInfinity } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, GatedSsmOptions options)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new GatedSsmMixer(8, options));
        Assert.StartsWith($"GatedSsmOptions.{text}.", error.Message, StringComparison.Ordinal);
    }
}
