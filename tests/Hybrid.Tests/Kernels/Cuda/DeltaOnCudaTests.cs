using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The CUDA kernels of the gated delta rule, on a CPU in the place of a device.</summary>
public class DeltaOnCudaTests
{
    // float32 against float64 over some hundred steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<long, long, long, long, long, string> Cases => DeltaKernelCase.All;

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReference(long batch, long time, long heads, long keyWidth, long valueWidth, string with) =>
        DeltaKernelCase.Check(Kernel(), CPU, Tolerance, batch, time, heads, keyWidth, valueWidth, with);

    /// <summary>Whole and ragged registers of the widest keys, several tiles, enough heads that the tiles are wide forwards too, and long rows.</summary>
    [Theory]
    [InlineData(1, 5, 1, 256, 64, "g normalise initial")]
    [InlineData(1, 9, 1, 250, 70, "g initial")]
    [InlineData(1, 6, 4, 128, 129, "g normalise mask initial")]
    [InlineData(3, 12, 2, 96, 64, "g restart")]
    [InlineData(1, 257, 2, 7, 3, "g normalise mask initial")]
    [InlineData(1, 1000, 1, 7, 3, "g restart")]
    public void AnySizeEqualsTheReference(long batch, long time, long heads, long keyWidth, long valueWidth, string with) =>
        DeltaKernelCase.Check(Kernel(), CPU, Tolerance, batch, time, heads, keyWidth, valueWidth, with);

    /// <summary>Step after step from state to state, as in decoding, is the whole row at once.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void AStateContinuesTheRule(int steps)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(11);
        var x = DeltaKernelCase.Inputs(2, 12, 2, 40, 20, "g initial");
        var (expected, expectedState) = Rule(0, 12, x[5]);
        var (state, pieces) = (x[5], new List<Tensor>());
        for (var t = 0; t < 12; t += steps)
        {
            (var o, state) = Rule(t, steps, state);
            pieces.Add(o);
        }

        TensorAssert.Identical(expected, cat(pieces, 1), "o");
        TensorAssert.Identical(expectedState, state!, "state");

        (Tensor O, Tensor State) Rule(long start, long count, Tensor? initial)
        {
            var part = x.Take(5).Select(input => input!.narrow(1, start, count)).ToArray();
            return GatedDelta.Fused(Kernel(), part[0], part[1], part[2], part[3], part[4], 0.5, true, initial, null, null);
        }
    }

    /// <summary>Strides of any kind are read in place, and what is not aligned to more than an element.</summary>
    [Fact]
    public void ReadsSlicesOfLargerTensors()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var parts = randn(2, 40, 1 + (2 * 12) + 15 + 6).narrow(2, 1, 45).split([12, 12, 15, 3, 3], -1);
        var upstream = randn(2, 3, 40, 5).transpose(1, 2);
        Tensor[] slices = [parts[0].unflatten(2, 3, 4), parts[1].unflatten(2, 3, 4), parts[2].unflatten(2, 3, 5), parts[3].sigmoid(), parts[4].exp().neg()];
        foreach (var (copy, slice) in Results(slices.Select(slice => slice.contiguous())).Zip(Results(slices)))
        {
            TensorAssert.Identical(copy, slice, "slices and copies");
        }

        Tensor[] Results(IEnumerable<Tensor> inputs) => Differentiation.OfFirstOutput(
            inputs, upstream, x => [GatedDelta.Fused(Kernel(), x[0], x[1], x[2], x[3], x[4], 0.5, true, null, null, null, stateGradient: false).O]);
    }

    /// <summary>One dtype for q, k and v is read as it is; otherwise all become float32. States are float32 in both cases.</summary>
    [Theory]
    [InlineData(ScalarType.BFloat16, true, 1e-2)]
    [InlineData(ScalarType.BFloat16, false, 1e-2)]
    [InlineData(ScalarType.Float16, true, 2e-3)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType dtype, bool allRows, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(23);
        var inputs = DeltaKernelCase.Inputs(2, 37, 2, 35, 18, "g initial").Select(input => input!.to_type(dtype)).ToArray();
        inputs[1] = allRows ? inputs[1] : inputs[1].to_type(ScalarType.Float32);
        Differentiation.HalfEqualsWide(
            inputs, randn(2, 37, 2, 18).to_type(dtype), x => GatedDelta.Fused(Kernel(), x[0], x[1], x[2], x[3], x[4], 0.5, false, x[5], null, null),
            x => GatedDelta.Reference(x[0], x[1], x[2], x[3], x[4], 0.5, false, x[5], null, null), rounding, Tolerance);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AnOutputThatReceivesNoGradientPassesNoneOn(bool ofState)
    {
        using var scope = NewDisposeScope();
        manual_seed(12);
        var inputs = DeltaKernelCase.Inputs(1, 20, 2, 5, 3, "g initial").OfType<Tensor>().ToArray();
        var expected = Differentiation.OfSquares(
            inputs, x => Output(GatedDelta.Reference(x[0], x[1], x[2], x[3], x[4], 0.5, true, x[5], null, null)), ScalarType.Float64);
        var actual = Differentiation.OfSquares(inputs, x => Output(GatedDelta.Fused(Kernel(), x[0], x[1], x[2], x[3], x[4], 0.5, true, x[5], null, null)));
        foreach (var (gradient, other) in expected.Zip(actual))
        {
            TensorAssert.Close(gradient, other, Tolerance, "gradient");
        }

        Tensor Output((Tensor O, Tensor State) outputs) => ofState ? outputs.State : outputs.O;
    }

    [Fact]
    public void ASecondDerivativeIsThatOfTheReference()
    {
        using var scope = NewDisposeScope();
        manual_seed(24);
        var (q, k, v, beta, g) = (randn(1, 20, 2, 4), randn(1, 20, 2, 4), randn(1, 20, 2, 3), rand(1, 20, 2), -rand(1, 20, 2));
        TensorAssert.Close(
            Differentiation.Second([k, g], x => GatedDelta.Reference(q, x[0], v, beta, x[1], 0.5, true, null, null, null).O),
            Differentiation.Second([k, g], x => GatedDelta.Fused(Kernel(), q, x[0], v, beta, x[1], 0.5, true, null, null, null, stateGradient: false).O), 1e-4,
            "second derivative");
    }

    /// <summary>Decays so strong that nothing is kept, beside ones that keep all: the gradient of a decay is as small as the decay.</summary>
    [Fact]
    public void DecaysOfAnyStrengthHaveTheirGradients() =>
        Assert.All([0.0, 1e-3, 10, 1000], decay =>
        {
            using var scope = NewDisposeScope();
            manual_seed(13);
            var inputs = DeltaKernelCase.Inputs(1, 60, 2, 8, 6, "g");
            inputs[4] = inputs[4]! * (decay / 0.3);
            var expected = Gradient(ScalarType.Float64, x => GatedDelta.Reference(x[0], x[1], x[2], x[3], x[4], 0.5, true, null, null, null).O);
            var actual = Gradient(ScalarType.Float32, x => GatedDelta.Fused(Kernel(), x[0], x[1], x[2], x[3], x[4], 0.5, true, null, null, null).O);
            TensorAssert.Close(expected, actual, Tolerance, $"gradient of decays of {decay}");

            Tensor Gradient(ScalarType dtype, Func<Tensor[], Tensor> run)
            {
                var x = inputs.Take(5).Select(input => input!.to_type(dtype).clone().requires_grad_(true)).ToArray();
                run(x).square().sum().backward();
                return x[4].grad!;
            }
        });

    [Fact]
    public void ResultsAreTheSameBitForBitEachTime()
    {
        using var scope = NewDisposeScope();
        manual_seed(14);
        var inputs = DeltaKernelCase.Inputs(2, 30, 2, 33, 70, "g initial");
        foreach (var (first, second) in Results().Zip(Results()))
        {
            TensorAssert.Identical(first, second, "two runs");
        }

        Tensor[] Results()
        {
            var x = inputs.Select(input => input!.detach().clone().requires_grad_(true)).ToArray();
            var (o, state) = GatedDelta.Fused(Kernel(), x[0], x[1], x[2], x[3], x[4], 0.5, true, x[5], null, null);
            (o.square().sum() + state.sum()).backward();
            return [o, state, .. x.Select(leaf => leaf.grad!)];
        }
    }

    [Fact]
    public void NaNStaysInItsChannelAndItsSequence()
    {
        using var scope = NewDisposeScope();
        manual_seed(25);
        var inputs = DeltaKernelCase.Inputs(1, 60, 2, 5, 20, "g");
        var (restart, upstream) = (zeros([1, 60], dtype: ScalarType.Bool), randn(1, 60, 2, 20));
        inputs[2]![0, 10, 1, 7] = float.NaN;
        restart[0, 30] = true;
        upstream[0, 50, 0, 3] = float.NaN;
        var x = inputs.Take(5).Select(input => input!.requires_grad_(true)).ToArray();
        var (o, state) = GatedDelta.Fused(Kernel(), x[0], x[1], x[2], x[3], x[4], 0.5, true, null, null, restart);
        o.backward([upstream]);
        var (forward, ofValues) = (Nowhere(), Nowhere());
        forward[0, TensorIndex.Slice(10, 30), 1, 7] = true;
        ofValues[0, TensorIndex.Slice(30, 51), 0, 3] = true;
        TensorAssert.Identical(forward, o.isnan(), "where o is NaN");
        TensorAssert.Identical(ofValues, x[2].grad!.isnan(), "where the gradient of v is NaN");
        Assert.False(state.isnan().any().ToBoolean());
        Assert.False(x[4].grad!.narrow(1, 0, 30).select(2, 0).isnan().any().ToBoolean());
        Assert.False(x[4].grad!.narrow(1, 30, 30).select(2, 1).isnan().any().ToBoolean());

        static Tensor Nowhere() => zeros([1, 60, 2, 20], dtype: ScalarType.Bool);
    }

    [Fact]
    public void TheFirstSegmentOfTimeKeepsNoState()
    {
        // What a backward pass keeps: what was read of each state, and one state a segment but the first.
        using var scope = NewDisposeScope();
        foreach (var (time, segments) in new[] { (DeltaOnCuda.SegmentSteps, 1), (DeltaOnCuda.SegmentSteps + 1, 2) })
        {
            var x = DeltaKernelCase.Inputs(1, time, 1, 4, 2, "g");
            var tensors = new DeltaTensors(x[0]!, x[1]!, x[2]!, x[3]!, x[4], null, null, null, new DeltaKeys(1, false));
            var (_, kept) = Kernel().Forward(tensors, empty(1, 1, 4, 2), keep: true);
            Assert.Equal((time * 2) + ((segments - 1) * 4 * 2), kept!.numel());
            Assert.Null(Kernel().Forward(tensors, empty(1, 1, 4, 2), keep: false).Kept);
        }
    }

    private static DeltaOnCuda Kernel() => new(HostCuda.Runtime());
}
