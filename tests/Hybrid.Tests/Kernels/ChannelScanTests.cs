using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>What the recurrences on one SIMD pass have in common, each against its reference of plain tensor operations.</summary>
public class ChannelScanTests
{
    // float32 against float64 over up to a hundred steps.
    private const double Tolerance = 1e-5;

    private static readonly string[] Operations =
        ["linear recurrence", "gated average", "gated average, constant decay", "rg-lru", "wkv", "wkv of rwkv-4", "wkv without receptance"];

    public static TheoryData<string> Names => [.. Operations];

    /// <summary>Lengths around a chunk, channels around registers and groups, with what a batch can have.</summary>
    public static TheoryData<string, long, long, long, string> Sizes
    {
        get
        {
            var data = new TheoryData<string, long, long, long, string>();
            foreach (var operation in Operations)
            {
                // Without a state the first token of wkv is its own mean, whatever the bonus: that gradient would be rounding alone.
                data.Add(operation, 1, 1, 1, "state");
                data.Add(operation, 1, 2, 1, "");
                data.Add(operation, 2, 2, 15, "state");
                data.Add(operation, 1, 31, 17, "state mask");
                data.Add(operation, 3, 32, 16, "restart");
                data.Add(operation, 2, 33, 131, "state restart");
                data.Add(operation, 1, 100, 529, "state mask restart");
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Sizes))]
    public void TheSimdKernelEqualsTheReference(string operation, long batch, long time, long channels, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(41);
        var inputs = Inputs(operation, batch, time, channels);
        var mask = With("mask") ? rand(batch, time).gt(0.3) : null;
        var restart = With("restart") ? rand(batch, time).gt(0.8) : null;
        var results = Results(operation, inputs, With("state"), mask, restart);
        var expected = Results(operation, inputs, With("state"), mask, restart, ScalarType.Float64);
        TensorAssert.AllClose(expected, results, Tolerance, operation);

        bool With(string what) => with.Contains(what, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void ResultsDoNotDependOnTheNumberOfThreads(string operation)
    {
        using var scope = NewDisposeScope();
        manual_seed(42);
        var inputs = Inputs(operation, 3, 70, 300);
        ThreadCount.ChangesNothing(() => Results(operation, inputs, true, null, null));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void NaNStaysInItsChannelAndItsFuture(string operation)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(43);
        foreach (var value in new[] { float.NaN, float.PositiveInfinity })
        {
            // Gates of one block each, so that channels do not meet in the products before the recurrence.
            var inputs = Inputs(operation, 1, 50, 20, blocks: 20);
            inputs[0][0, 40, 7] = value;
            var (y, _) = Apply(operation, inputs, false, null, null);
            var expected = zeros([1, 50, 20], dtype: ScalarType.Bool);
            expected[0, TensorIndex.Slice(40), 7] = true;
            var touched = y[0].isfinite().logical_not().unsqueeze(0);
            Assert.True(touched[0, 40, 7].ToBoolean(), $"{operation}: {value} must show");
            Assert.False(touched.logical_and(expected.logical_not()).any().ToBoolean(), $"{operation}: {value} reached another channel or the past");
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void InputsMayBeSlicesOfLargerTensors(string operation)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(44);
        var inputs = Inputs(operation, 2, 40, 21);
        var slices = inputs.Select(input => input.dim() < 3 ? input : cat([input, input, input], -1).narrow(-1, input.size(-1), input.size(-1))).ToArray();
        TensorAssert.Identical(Apply(operation, inputs, true, null, null).Y, Apply(operation, slices, true, null, null).Y, "slices and copies");
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void AStateWithoutGradientIsLeftOutOfTheGraph(string operation)
    {
        using var scope = NewDisposeScope();
        manual_seed(45);
        var inputs = Differentiation.Leaves(Inputs(operation, 2, 5, 7));
        var (y, states) = Apply(operation, inputs, true, null, null, stateGradient: false);
        Assert.True(y.requires_grad);
        Assert.All(states, state => Assert.False(state.requires_grad));
        y.sum().backward();
        Assert.True(inputs[0].grad!.isfinite().all().ToBoolean());
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void ACallLeavesNoTensorBehind(string operation)
    {
        using var scope = NewDisposeScope();
        manual_seed(46);
        var inputs = Differentiation.Leaves(Inputs(operation, 2, 40, 7));
        Step();
        var before = LiveTensors.Before();
        for (var i = 0; i < 10; i++)
        {
            Step();
        }

        Assert.Equal(before, Tensor.TotalCount);

        void Step()
        {
            using var inner = NewDisposeScope();
            Apply(operation, inputs, true, null, null, stateGradient: false).Y.sum().backward();
            foreach (var input in inputs)
            {
                using var gradient = input.grad;
            }
        }
    }

    /// <summary>Inputs over time first, [B, T, ...], then constants, then states; every one a number that is not special.</summary>
    private static Tensor[] Inputs(string operation, long batch, long time, long channels, long blocks = 1) => operation switch
    {
        "linear recurrence" => [randn(batch, time, channels), -randn(batch, time, channels).exp(), randn(batch, channels)],
        "gated average" => [randn(batch, time, 2 * channels), randn(channels) * 2, randn(batch, time, channels), randn(batch, channels)],
        "gated average, constant decay" => [randn(batch, time, 2 * channels), randn(channels) * 2, randn(batch, channels)],
        "rg-lru" =>
        [
            randn(batch, time, channels), randn(blocks, channels / blocks, channels / blocks) / Math.Sqrt(channels), randn(blocks, channels / blocks),
            randn(blocks, channels / blocks, channels / blocks) / Math.Sqrt(channels), randn(blocks, channels / blocks), randn(channels) * 2, randn(batch, channels),
        ],
        "wkv of rwkv-4" =>
        [
            randn(batch, time, channels) * 2, randn(batch, time, channels), randn(batch, time, channels), randn(channels), randn(channels),
            randn(batch, channels), rand(batch, channels) + 0.5, randn(batch, channels),
        ],
        _ =>
        [
            randn(batch, time, channels) * 2, randn(batch, time, channels), randn(batch, time, channels), randn(batch, time, channels), randn(channels),
            randn(batch, channels), rand(batch, channels) + 0.5, randn(batch, channels),
        ],
    };

    private static (Tensor Y, Tensor[] States) Apply(
        string operation, Tensor[] x, bool state, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var (y, final) = operation switch
        {
            "linear recurrence" => LinearRecurrence.Apply(x[0], x[1], state ? x[2] : null, mask, restart, stateGradient),
            "gated average" => GatedAverage.Apply(x[0], x[1], x[2], state ? x[3] : null, mask, restart, stateGradient),
            "gated average, constant decay" => GatedAverage.Apply(x[0], x[1], null, state ? x[2] : null, mask, restart, stateGradient),
            "rg-lru" => RgLru.Apply(x[0], x[1], x[2], x[3], x[4], x[5], state ? x[6] : null, restart, mask, stateGradient),
            _ => (x[0], null as Tensor),
        };
        if (final is not null)
        {
            return (y, [final]);
        }

        var form = operation == "wkv of rwkv-4" ? WkvForm.Rwkv4 : WkvForm.DataDependent;
        WkvState? initial = state ? new WkvState(x[5], x[6], x[7]) : null;
        var (mean, sums) = Wkv.Apply(
            form, x[3], x[4], x[0], x[1], initial, mask, restart, operation == "wkv without receptance" ? null : x[2], stateGradient);

        // Numerator and denominator are relative to the maximum, which is rounded at other places in the two kernels.
        return (mean, stateGradient ? [sums.Numerator * sums.Maximum.exp(), sums.Denominator * sums.Maximum.exp()] : [sums.Numerator, sums.Denominator]);
    }

    /// <summary>Outputs and gradients, of the SIMD kernel in float32 and of the reference in float64.</summary>
    private static Tensor[] Results(string operation, Tensor[] inputs, bool state, Tensor? mask, Tensor? restart, ScalarType dtype = ScalarType.Float32) =>
        Differentiation.Results(
            inputs,
            x =>
            {
                var (y, states) = Apply(operation, x, state, mask, restart);
                return [y, .. states];
            },
            dtype);
}
