using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>The SIMD kernel of state-space duality: chunks of 32 steps, tiles of four rows by two registers.</summary>
public class StateSpaceDualityCpuTests
{
    // float32 against float64 over up to 100 steps; gradients of B and C sum over heads, that of A over all steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<long, long, long, long, long, long, string> Sizes => DualityKernelCase.All;

    [Theory]
    [MemberData(nameof(Sizes))]
    public void EqualsTheReferenceInFloat64(long batch, long time, long heads, long groups, long headWidth, long n, string with) =>
        DualityKernelCase.Check(
            (x, steps, mask, restart) => StateSpaceDuality.Cpu(x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], steps, x[8], mask, restart),
            CPU, Tolerance, batch, time, heads, groups, headWidth, n, with);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AnOutputThatReceivesNoGradientPassesNoneOn(bool ofState)
    {
        using var scope = NewDisposeScope();
        manual_seed(12);
        var inputs = DualityKernelCase.Inputs(1, 40, 2, 1, 5, 3, "initial").OfType<Tensor>().ToArray();
        foreach (var (gradient, actual) in Gradients(ScalarType.Float64).Zip(Gradients(ScalarType.Float32)))
        {
            TensorAssert.Close(gradient, actual, Tolerance, "gradient");
        }

        Tensor[] Gradients(ScalarType dtype) => Differentiation.OfSquares(
            inputs,
            x =>
            {
                var (y, state) = StateSpaceDuality.Apply(x[0], x[1], x[2], x[3], x[4], dtSoftplus: true, initialState: x[5]);
                return ofState ? state : y;
            },
            dtype);
    }

    [Fact]
    public void ResultsDoNotDependOnTheNumberOfThreads()
    {
        using var scope = NewDisposeScope();
        manual_seed(10);
        var inputs = DualityKernelCase.Inputs(2, 70, 8, 2, 33, 20, "D bias");
        var upstream = randn(2, 70, 8, 33);
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
            var (y, state) = StateSpaceDuality.Apply(x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], null, x[7], true, stateGradient: false);
            y.backward([upstream]);
            return [y, state, .. x.Where(leaf => leaf is not null).Select(leaf => leaf!.grad!)];
        }
    }

    [Fact]
    public void NaNStaysInItsChannelAndItsFuture()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(24);
        var inputs = DualityKernelCase.Inputs(1, 70, 2, 1, 20, 3, "");
        inputs[0]![0, 40, 1, 7] = float.NaN;
        var (y, state) = StateSpaceDuality.Apply(inputs[0]!, inputs[1]!, inputs[2]!, inputs[3]!, inputs[4]!, dtSoftplus: true);
        var expected = zeros([1, 70, 2, 20], dtype: ScalarType.Bool);
        expected[0, TensorIndex.Slice(40), 1, 7] = true;
        TensorAssert.Identical(expected, y.isnan(), "where y is NaN");
        Assert.Equal(3, state.isnan().sum().ToInt64());
    }

    [Fact]
    public void SlicesOfLargerTensorsAreReadInPlace()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var wide = randn(2, 40, (4 * 5) + (2 * 2 * 3) + 4);
        var parts = wide.split([20, 6, 6, 4], -1);
        var a = -randn(4).exp();
        Tensor[] slices = [parts[0].unflatten(2, 4, 5), parts[3], parts[1].unflatten(2, 2, 3), parts[2].unflatten(2, 2, 3)];
        var copies = slices.Select(slice => slice.contiguous()).ToArray();
        var (y, state) = StateSpaceDuality.Apply(slices[0], slices[1], a, slices[2], slices[3], dtSoftplus: true);
        var (expected, expectedState) = StateSpaceDuality.Apply(copies[0], copies[1], a, copies[2], copies[3], dtSoftplus: true);
        TensorAssert.Identical(expected, y, "y");
        TensorAssert.Identical(expectedState, state, "state");
    }

    [Fact]
    public void TheDispatcherTakesIt()
    {
        using var x = zeros(1);
        Assert.True(StateSpaceDuality.Simd.CanRun(("x", x)));
    }
}
