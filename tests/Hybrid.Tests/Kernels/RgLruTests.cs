using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class RgLruTests
{
    // Cases were rounded to float32 from float64, so this is the rounding of a float32 kernel over a few hundred steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("rg_lru");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("rg_lru", name);
        var inputs = golden.Inputs();
        var first = inputs["position_ids"].eq(0);

        var (logDecay, driving) = RgLru.Coefficients(
            inputs["x"], inputs["input_gate_weight"], inputs["input_gate_bias"], inputs["recurrent_gate_weight"], inputs["recurrent_gate_bias"],
            inputs["recurrent_param"], first);
        TensorAssert.Close(golden.Get("out.a"), logDecay.exp().masked_fill(first.unsqueeze(-1), 0), Tolerance, $"{name} a");
        TensorAssert.Close(golden.Get("out.b"), driving, Tolerance, $"{name} b");

        var (y, state) = Run(inputs, first);
        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        TensorAssert.Close(golden.Get("out.final_state"), state, Tolerance, $"{name} final_state");

        golden.Loss(("y", y), ("final_state", state)).backward();
        golden.CheckGradients(inputs, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void AStateAfterAnyPrefixContinuesTheUnit(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("rg_lru", name);
        var inputs = golden.Inputs();
        var (x, first) = (inputs["x"], inputs["position_ids"].eq(0));
        var time = x.size(1);
        for (var split = 1L; split < time; split += Math.Max(1, time / 15))
        {
            var (before, middle) = Part(0, split, golden.Find("in.initial_state"));
            var (after, last) = Part(split, time - split, middle);
            TensorAssert.Close(golden.Get("out.y"), cat([before, after], 1), Tolerance, $"{name} y split at {split}");
            TensorAssert.Close(golden.Get("out.final_state"), last, Tolerance, $"{name} final_state split at {split}");
        }

        (Tensor, Tensor) Part(long start, long length, Tensor? state)
        {
            inputs["x"] = x.narrow(1, start, length);
            inputs.Remove("initial_state");
            if (state is not null)
            {
                inputs["initial_state"] = state;
            }

            return Run(inputs, first.narrow(1, start, length));
        }
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 1)]
    [InlineData(63, 1)]
    [InlineData(65, 8)]
    [InlineData(100, 0.01)]
    public void EqualsTheFormulaTokenByToken(int time, double scale)
    {
        const int heads = 2, width = 3, channels = heads * width;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(8);
        var inputs = Random(1, time, heads, width, scale, ScalarType.Float32);
        var first = zeros([1, time], dtype: ScalarType.Bool);
        first[0, time / 2] = tensor(true);
        var (y, state) = Run(inputs, first);

        var values = inputs.ToDictionary(entry => entry.Key, entry => Values.Of(entry.Value));
        var expected = new double[time * channels];
        var h = values["initial_state"];
        for (var t = 0; t < time; t++)
        {
            for (var e = 0; e < channels; e++)
            {
                var input = Gate("input_gate", t, e) * values["x"][(t * channels) + e];
                var logA = -8 * Gate("recurrent_gate", t, e) * Math.Log(1 + Math.Exp(values["recurrent_param"][e]));
                h[e] = t == time / 2 ? input : (Math.Exp(logA) * h[e]) + (Math.Sqrt(1 - Math.Exp(2 * logA)) * input);
                expected[(t * channels) + e] = h[e];
            }
        }

        TensorAssert.Close(Values.Tensor32(expected, 1, time, channels), y, Tolerance, "y");
        TensorAssert.Close(Values.Tensor32(h, 1, channels), state, Tolerance, "final state");

        double Gate(string gate, int t, int e)
        {
            var (block, column) = (e / width, e % width);
            var sum = values[gate + "_bias"][e];
            for (var k = 0; k < width; k++)
            {
                sum += values["x"][(t * channels) + (block * width) + k] * values[gate + "_weight"][(((block * width) + k) * width) + column];
            }

            return Values.Sigmoid(sum);
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    public void GradientsAgreeWithFiniteDifferences(int time)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        var inputs = Random(2, time, 2, 3, 1, ScalarType.Float64);
        var first = arange(time).eq(time / 2).unsqueeze(0).repeat(2, 1);
        var names = inputs.Keys.ToArray();
        FiniteDifferences.Check(
            leaves =>
            {
                var (y, state) = Run(names.Zip(leaves).ToDictionary(pair => pair.First, pair => pair.Second), time == 1 ? null : first);
                return [y, state];
            },
            [.. inputs.Values]);
    }

    [Theory]
    [InlineData(1e4)]
    [InlineData(-1e4)]
    public void SaturatedGatesStayFinite(double bias)
    {
        using var scope = NewDisposeScope();
        manual_seed(4);
        var inputs = Random(2, 30, 2, 3, 100, ScalarType.Float32);
        inputs["recurrent_gate_bias"] = full_like(inputs["recurrent_gate_bias"], bias);
        Assert.All(inputs.Values, input => input.requires_grad_(true));
        var (y, state) = Run(inputs, null);
        (y.sum() + state.sum()).backward();
        Assert.All(
            inputs.Values.Select(input => input.grad!).Append(y).Append(state), value => Assert.True(value.detach().isfinite().all().ToBoolean()));
        if (bias < 0)
        {
            // A closed recurrence gate keeps the state for ever and lets nothing in.
            TensorAssert.Close(inputs["initial_state"], state, 1e-6, "final state");
        }
    }

    [Fact]
    public void NearlyFullDecayKeepsItsPrecision()
    {
        // softplus(-16) is 1.1e-7, so a differs from 1 by less than float32 can hold; 1 - a^2 must not be taken from a.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (weight, bias) = (zeros(1, 1, 1), zeros(1, 1));
        var (_, driving) = RgLru.Coefficients(ones(1, 1, 1), weight, bias, weight, bias, full([1], -16.0), null);
        var logA = -8 * 0.5 * Math.Log(1 + Math.Exp(-16));
        Assert.Equal(1, driving.ToDouble() / (0.5 * Math.Sqrt(-2 * logA)), 1e-5);
    }

    [Fact]
    public void MismatchedShapesAreNamed()
    {
        using var scope = NewDisposeScope();
        var inputs = Random(2, 5, 2, 3, 1, ScalarType.Float32);
        Expect("inputGateWeight must be [H, w, w] with H * w = 6; got [2, 2, 3].", "input_gate_weight", zeros(2, 2, 3));
        Expect("inputGateBias must be [2, 3]; got [6].", "input_gate_bias", zeros(6));
        Expect("recurrentGateWeight must be [2, 3, 3]; got [3, 2, 2].", "recurrent_gate_weight", zeros(3, 2, 2));
        Expect("recurrentGateBias must be [2, 3]; got [3, 2].", "recurrent_gate_bias", zeros(3, 2));
        Expect("recurrentParam must be [6]; got [5].", "recurrent_param", zeros(5));
        Expect("initialState must be [2, 6]; got [6].", "initial_state", zeros(6));
        Expect("x must be [B, T, E], all at least 1; got [2, 5].", "x", zeros(2, 5));

        void Expect(string text, string key, Tensor wrong)
        {
            var changed = new Dictionary<string, Tensor>(inputs) { [key] = wrong };
            var error = Assert.Throws<ArgumentException>(() => Run(changed, null));
            Assert.StartsWith("RgLru: " + text, error.Message, StringComparison.Ordinal);
        }
    }

    private static Dictionary<string, Tensor> Random(long batch, long time, long heads, long width, double scale, ScalarType type)
    {
        return new()
        {
            ["x"] = Draw(batch, time, heads * width) * scale,
            ["input_gate_weight"] = Draw(heads, width, width),
            ["input_gate_bias"] = Draw(heads, width),
            ["recurrent_gate_weight"] = Draw(heads, width, width),
            ["recurrent_gate_bias"] = Draw(heads, width),
            ["recurrent_param"] = Draw(heads * width) - 2,
            ["initial_state"] = Draw(batch, heads * width),
        };

        Tensor Draw(params long[] shape) => randn(shape, dtype: type);
    }

    private static (Tensor Y, Tensor State) Run(Dictionary<string, Tensor> inputs, Tensor? first) => RgLru.Apply(
        inputs["x"], inputs["input_gate_weight"], inputs["input_gate_bias"], inputs["recurrent_gate_weight"], inputs["recurrent_gate_bias"],
        inputs["recurrent_param"], inputs.GetValueOrDefault("initial_state"), first);
}
