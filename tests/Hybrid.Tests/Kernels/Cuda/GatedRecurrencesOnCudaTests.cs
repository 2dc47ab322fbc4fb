using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>RG-LRU and gated average with their gates in CUDA kernels, on a CPU in the place of a device.</summary>
public class GatedRecurrencesOnCudaTests
{
    // Rounding of a float32 kernel over up to about a thousand steps.
    private const double Tolerance = 1e-5;
    private const string RgLruUnit = "RG-LRU";
    private const string AverageUnit = "gated average";
    private const string ConstantAverageUnit = "gated average of constant decay";

    private static readonly string[] RgLruNames =
        ["x", "input_gate_weight", "input_gate_bias", "recurrent_gate_weight", "recurrent_gate_bias", "recurrent_param", "initial_state"];

    public static TheoryData<string> GoldenUnits => GoldenCases.Of("rg_lru");

    /// <summary>1,030 rows of 130 channels leave room for one chunk only.</summary>
    [Theory]
    [InlineData(RgLruUnit, 1, 1, 1, 1, "")]
    [InlineData(RgLruUnit, 2, 2, 3, 1, "state")]
    [InlineData(RgLruUnit, 2, 63, 1, 33, "state restart")]
    [InlineData(RgLruUnit, 3, 65, 3, 43, "mask")]
    [InlineData(RgLruUnit, 1, 128, 5, 1, "state mask")]
    [InlineData(RgLruUnit, 2, 129, 2, 7, "state mask restart")]
    [InlineData(RgLruUnit, 1, 1000, 2, 2, "state restart")]
    [InlineData(RgLruUnit, 1030, 5, 10, 13, "state")]
    [InlineData(AverageUnit, 1, 1, 1, 1, "")]
    [InlineData(AverageUnit, 2, 63, 1, 33, "state restart")]
    [InlineData(AverageUnit, 3, 130, 1, 5, "state mask restart")]
    [InlineData(AverageUnit, 1, 1000, 1, 4, "mask")]
    [InlineData(AverageUnit, 1030, 5, 1, 130, "state")]
    [InlineData(ConstantAverageUnit, 2, 129, 1, 7, "state restart")]
    [InlineData(ConstantAverageUnit, 1, 65, 1, 129, "mask")]
    public void EqualsTheReference(string unit, long batch, long time, long heads, long width, string with) =>
        Check(new RecurrenceOnCuda(HostCuda.Runtime()), CPU, Tolerance, unit, batch, time, heads, width, with);

    [Theory]
    [InlineData(RgLruUnit, 2, 1000, 3, 32, "state")]
    [InlineData(RgLruUnit, 3, 1025, 3, 11, "state mask restart")]
    [InlineData(AverageUnit, 3, 1025, 1, 33, "state mask restart")]
    [InlineData(ConstantAverageUnit, 2, 300, 1, 7, "state")]
    public void EqualsTheReferenceOnADevice(string unit, long batch, long time, long heads, long width, string with)
    {
        Assert.SkipUnless(cuda.is_available(), "there is no CUDA device, or the libtorch is one for CPUs");
        using var x = ones(1, device: CUDA);
        var kernel = unit == RgLruUnit ? RgLru.OnCuda.For(("x", x)) : GatedAverage.OnCuda.For(("x", x));
        Assert.NotNull(kernel);
        Check(kernel, CUDA, 10 * Tolerance, unit, batch, time, heads, width, with);
    }

    [Theory]
    [MemberData(nameof(GoldenUnits))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("rg_lru", name);
        var inputs = RgLruNames.Where(key => golden.Has("in." + key)).ToDictionary(key => key, key => golden.Get("in." + key).requires_grad_(true));
        Tensor?[] x = [.. RgLruNames.Select(key => inputs.GetValueOrDefault(key))];
        var (y, state) = RgLru.Cuda(
            new RecurrenceOnCuda(HostCuda.Runtime()), x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5]!, x[6], golden.Get("in.position_ids").eq(0), null);
        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        TensorAssert.Close(golden.Get("out.final_state"), state, Tolerance, $"{name} final_state");
        golden.Loss(("y", y), ("final_state", state)).backward();
        Assert.All(inputs, entry => TensorAssert.Close(golden.Get("grad." + entry.Key), entry.Value.grad!, Tolerance, $"{name} gradient of {entry.Key}"));
    }

    [Theory]
    [InlineData(RgLruUnit)]
    [InlineData(AverageUnit)]
    public void ReadsSlicesOfLargerTensors(string unit)
    {
        using var scope = NewDisposeScope();
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        var inputs = Inputs(unit, 2, 150, 3, 4, "state");
        var sliced = inputs.ToArray();
        sliced[0] = cat([zeros(2, 150, 5), inputs[0], zeros(2, 150, 2)], 2).narrow(2, 5, inputs[0].size(2));
        var (expected, expectedLast) = Run(kernel, unit, inputs, null, null);
        var (y, last) = Run(kernel, unit, sliced, null, null);
        TensorAssert.Identical(expected, y, "slices and copies");
        TensorAssert.Identical(expectedLast, last, "states of slices and copies");
    }

    /// <summary>
    /// Gate weights in half precision as in mixed precision, biases and decays in float32. A libtorch for CPUs has no products of float16.
    /// </summary>
    [Theory]
    [InlineData(RgLruUnit, ScalarType.BFloat16, 1.5e-2)]
    [InlineData(AverageUnit, ScalarType.BFloat16, 1e-2)]
    [InlineData(AverageUnit, ScalarType.Float16, 2e-3)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(string unit, ScalarType type, double rounding)
    {
        using var scope = NewDisposeScope();
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        var inputs = Inputs(unit, 2, 170, 3, 12, "state");
        foreach (var i in unit == RgLruUnit ? new[] { 0, 1, 3 } : [0, 2])
        {
            inputs[i] = inputs[i].to_type(type);
        }

        Differentiation.HalfEqualsWide(
            inputs, randn(2, 170, 36).to_type(type), x => Run(kernel, unit, x, null, null), x => Reference(unit, x, null, null), rounding);
    }

    [Theory]
    [InlineData(RgLruUnit)]
    [InlineData(AverageUnit)]
    public void ASecondDerivativeIsThatOfTheReference(string unit)
    {
        using var scope = NewDisposeScope();
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        var inputs = Inputs(unit, 2, 70, 2, 3, "state");
        TensorAssert.Close(
            Differentiation.Second(inputs, x => Reference(unit, x, null, null).Y),
            Differentiation.Second(inputs, x => Run(kernel, unit, x, null, null, stateGradient: false).Y), 1e-4, "second derivative");
    }

    [Theory]
    [InlineData(1e4)]
    [InlineData(-1e4)]
    public void SaturatedGatesStayFinite(double bias)
    {
        using var scope = NewDisposeScope();
        var inputs = Inputs(RgLruUnit, 2, 70, 2, 3, "state");
        inputs[0] = inputs[0] * 100;
        inputs[4] = full_like(inputs[4], bias);
        Assert.All(inputs, input => input.requires_grad_(true));
        var (y, state) = Run(new RecurrenceOnCuda(HostCuda.Runtime()), RgLruUnit, inputs, null, null);
        (y.sum() + state.sum()).backward();
        Assert.All(inputs.Select(input => input.grad!).Append(y).Append(state), value => Assert.True(value.detach().isfinite().all().ToBoolean()));
        if (bias < 0)
        {
            // A closed recurrence gate keeps the state for ever and lets nothing in.
            TensorAssert.Close(inputs[6], state, 1e-6, "final state");
        }
    }

    /// <summary>What stands at padding is not read: neither states nor gradients of real tokens and weights take notice of it.</summary>
    [Fact]
    public void NotANumberAtPaddingStaysThere()
    {
        using var scope = NewDisposeScope();
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        var (x, gates, constants) = (randn(1, 130, 4), randn(2, 1, 130, 4), rand(3, 4).neg());
        var mask = arange(130).lt(100).unsqueeze(0);
        x[0, 110] = float.NaN;
        gates[1, 0, 120] = float.NaN;
        var tensors = new RecurrenceTensors(x, gates, constants, null, mask, null);
        var (y, final, states) = kernel.Forward(tensors, RecurrenceGates.RgLru, keep: true);
        var gradients = kernel.Backward(tensors, RecurrenceGates.RgLru, states!, ones_like(y), null);
        Assert.All(gradients.OfType<Tensor>().Append(y).Append(final), value => Assert.True(value.isfinite().all().ToBoolean()));
    }

    [Theory]
    [InlineData(RgLruUnit)]
    [InlineData(AverageUnit)]
    public void NothingStaysBehind(string unit)
    {
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        Step();
        var before = LiveTensors.Before();
        Step();
        Assert.Equal(before, Tensor.TotalCount);

        void Step()
        {
            using var scope = NewDisposeScope();
            var inputs = Inputs(unit, 2, 70, 2, 3, "");
            inputs[0].requires_grad_(true);
            var (y, state) = Run(kernel, unit, inputs, null, null, stateGradient: false);
            Assert.False(state.requires_grad);
            y.sum().backward();
            Assert.True(inputs[0].grad!.isfinite().all().ToBoolean());
        }
    }

    private static void Check(
        RecurrenceOnCuda kernel, Device device, double tolerance, string unit, long batch, long time, long heads, long width, string with)
    {
        using var scope = NewDisposeScope();
        var inputs = Inputs(unit, batch, time, heads, width, with);
        var (upstreamY, upstreamState) = (randn(batch, time, heads * width), randn(batch, heads * width));
        var mask = with.Contains("mask", StringComparison.Ordinal) ? rand(batch, time).gt(0.3).to(device) : null;
        var restart = with.Contains("restart", StringComparison.Ordinal) ? rand(batch, time).gt(0.9).to(device) : null;
        var expected = Results(ScalarType.Float64, x => Reference(unit, x, mask, restart));
        var actual = Results(ScalarType.Float32, x => Run(kernel, unit, x, mask, restart));
        foreach (var (i, tensor) in expected.Index())
        {
            TensorAssert.Close(tensor, actual[i], tolerance, i < 2 ? new[] { "y", "state" }[i] : $"gradient of input {i - 2}");
        }

        List<Tensor> Results(ScalarType type, Func<Tensor[], (Tensor Y, Tensor State)> run)
        {
            var x = inputs.Select(input => input.to(device).to_type(type).clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            ((y * upstreamY.to(device).to_type(type)).sum() + (state * upstreamState.to(device).to_type(type)).sum()).backward();
            return [y.detach(), state.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }

    /// <summary>
    /// x, weight and bias of the input gate, those of the recurrent gate and the parameter of the RG-LRU; values and gates, decay and, where it
    /// varies, logits of the average; then the state, where there is one.
    /// </summary>
    private static Tensor[] Inputs(string unit, long batch, long time, long heads, long width, string with)
    {
        manual_seed(31);
        var channels = heads * width;
        Tensor[] state = with.Contains("state", StringComparison.Ordinal) ? [randn(batch, channels)] : [];
        return unit switch
        {
            RgLruUnit =>
            [
                randn(batch, time, channels), randn(heads, width, width) / Math.Sqrt(width), randn(heads, width), randn(heads, width, width) / Math.Sqrt(width),
                randn(heads, width), randn(channels) - 2, .. state,
            ],
            AverageUnit => [randn(batch, time, 2 * channels), randn(channels) * 3, randn(batch, time, channels) * 2, .. state],
            _ => [randn(batch, time, 2 * channels), randn(channels) * 3, .. state],
        };
    }

    private static (Tensor Y, Tensor State) Run(
        RecurrenceOnCuda kernel, string unit, Tensor[] x, Tensor? mask, Tensor? restart, bool stateGradient = true) => unit switch
    {
        RgLruUnit => RgLru.Cuda(kernel, x[0], x[1], x[2], x[3], x[4], x[5], x.ElementAtOrDefault(6), restart, mask, stateGradient),
        AverageUnit => GatedAverage.Cuda(kernel, x[0], x[1], x[2], x.ElementAtOrDefault(3), mask, restart, stateGradient),
        _ => GatedAverage.Cuda(kernel, x[0], x[1], null, x.ElementAtOrDefault(2), mask, restart, stateGradient),
    };

    private static (Tensor Y, Tensor State) Reference(string unit, Tensor[] x, Tensor? mask, Tensor? restart) => unit switch
    {
        RgLruUnit => RgLru.Reference(x[0], x[1], x[2], x[3], x[4], x[5], x.ElementAtOrDefault(6), restart, mask),
        AverageUnit => GatedAverage.Reference(x[0], x[1], x[2], x.ElementAtOrDefault(3), mask, restart),
        _ => GatedAverage.Reference(x[0], x[1], null, x.ElementAtOrDefault(2), mask, restart),
    };
}
