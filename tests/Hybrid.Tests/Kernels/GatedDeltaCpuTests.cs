using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>The SIMD kernel of the gated delta rule: chunks of 32 steps, tiles of four rows by two registers.</summary>
public class GatedDeltaCpuTests
{
    // float32 against float64 over up to 130 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<long, long, long, long, long, string> Sizes => DeltaKernelCase.All;

    [Theory]
    [MemberData(nameof(Sizes))]
    public void EqualsTheReferenceInFloat64(long batch, long time, long heads, long keyWidth, long valueWidth, string with) =>
        DeltaKernelCase.Check(DeltaOnCpu.Instance, CPU, Tolerance, batch, time, heads, keyWidth, valueWidth, with);

    [Fact]
    public void TheDispatcherTakesIt()
    {
        using var x = zeros(1);
        Assert.True(GatedDelta.Simd.CanRun(("q", x)));
    }

    [Fact]
    public void ResultsDoNotDependOnTheNumberOfThreads()
    {
        using var scope = NewDisposeScope();
        manual_seed(10);
        var inputs = DeltaKernelCase.Inputs(2, 70, 4, 20, 33, "g");
        var upstream = randn(2, 70, 4, 33);
        var alone = Results(1);
        foreach (var threads in new[] { 2, 3 })
        {
            foreach (var (expected, actual) in alone.Zip(Results(threads)))
            {
                TensorAssert.Identical(expected, actual, $"{threads} threads");
            }
        }

        Tensor[] Results(int threads)
        {
            using var count = new ThreadCount(threads);
            var x = inputs.Select(input => input?.detach().clone().requires_grad_(true)).ToArray();
            var (o, state) = GatedDelta.Apply(x[0]!, x[1]!, x[2]!, x[3]!, x[4], normalise: true, stateGradient: false);
            o.backward([upstream]);
            return [o, state, .. x.Where(leaf => leaf is not null).Select(leaf => leaf!.grad!)];
        }
    }

    [Fact]
    public void NaNStaysInItsHeadAndItsFuture()
    {
        // A value that is NaN is NaN in its channel from then on: what is held for a key is read channel by channel.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(24);
        var inputs = DeltaKernelCase.Inputs(1, 70, 2, 5, 20, "g");
        inputs[2]![0, 40, 1, 7] = float.NaN;
        var (o, state) = GatedDelta.Apply(inputs[0]!, inputs[1]!, inputs[2]!, inputs[3]!, inputs[4], normalise: true);
        var expected = zeros([1, 70, 2, 20], dtype: ScalarType.Bool);
        expected[0, TensorIndex.Slice(40), 1, 7] = true;
        TensorAssert.Identical(expected, o.isnan(), "where o is NaN");
        Assert.Equal(5, state.isnan().sum().ToInt64());
    }

    [Fact]
    public void SlicesOfLargerTensorsAreReadInPlace()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var parts = randn(2, 40, (2 * 12) + 15 + 6).split([12, 12, 15, 3, 3], -1);
        Tensor[] slices = [parts[0].unflatten(2, 3, 4), parts[1].unflatten(2, 3, 4), parts[2].unflatten(2, 3, 5), parts[3].sigmoid(), parts[4].exp().neg()];
        var copies = slices.Select(slice => slice.contiguous()).ToArray();
        var (o, state) = GatedDelta.Apply(slices[0], slices[1], slices[2], slices[3], slices[4], normalise: true);
        var (expected, expectedState) = GatedDelta.Apply(copies[0], copies[1], copies[2], copies[3], copies[4], normalise: true);
        TensorAssert.Identical(expected, o, "o");
        TensorAssert.Identical(expectedState, state, "state");
    }
}
