using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The CUDA kernels of state-space duality, on a CPU in the place of a device.</summary>
public class DualityOnCudaTests
{
    // float32 against float64 over some hundred steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<long, long, long, long, long, long, string> Cases => DualityKernelCase.All;

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReference(long batch, long time, long heads, long groups, long headWidth, long n, string with) =>
        Check(StateSpaceDuality.Kernel(HostCuda.Runtime()), CPU, Tolerance, batch, time, heads, groups, headWidth, n, with);

    /// <summary>The widest states, several tiles, and long rows.</summary>
    [Theory]
    [InlineData(1, 6, 2, 1, 64, 256, "D z bias initial")]
    [InlineData(1, 7, 4, 2, 130, 128, "initial mask")]
    [InlineData(2, 5, 2, 2, 20, 200, "restart limits")]
    [InlineData(1, 1000, 2, 1, 3, 4, "D initial")]
    [InlineData(1, 513, 2, 1, 2, 3, "mask restart")]
    public void AnySizeEqualsTheReference(long batch, long time, long heads, long groups, long headWidth, long n, string with) =>
        EqualsTheReference(batch, time, heads, groups, headWidth, n, with);

    /// <summary>Outputs that are neither aligned nor next to each other, and half precision: results in the dtype of x, states in float32.</summary>
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.BFloat16, 1e-2)]
    [InlineData(ScalarType.Float16, 2e-3)]
    public void SlicesOfEachDtypeAreReadInPlace(ScalarType dtype, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var parts = randn(2, 40, 1 + 20 + 12 + 4).to_type(dtype).narrow(2, 1, 36).split([20, 6, 6, 4], -1);
        var (a, skip) = (-randn(4).exp(), randn(4));
        Tensor[] slices = [parts[0].unflatten(2, 4, 5), parts[3], parts[1].unflatten(2, 2, 3), parts[2].unflatten(2, 2, 3)];
        Differentiation.HalfEqualsWide(
            slices, randn(2, 4, 40, 5).to_type(dtype).transpose(1, 2),
            x => StateSpaceDuality.Cuda(
                StateSpaceDuality.Kernel(HostCuda.Runtime()), x[0], x[1], a, x[2], x[3], skip, x[0], null, new ScanSteps(true, null, null), null, null, null),
            x => StateSpaceDuality.Reference(
                x[0], x[1], a, x[2], x[3], skip, x[0], null, true, null, null, null, null, null, StateSpaceDuality.DefaultChunkSize),
            rounding, Tolerance, ScalarType.Float64);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AnOutputThatReceivesNoGradientPassesNoneOn(bool ofState)
    {
        using var scope = NewDisposeScope();
        manual_seed(12);
        var inputs = DualityKernelCase.Inputs(1, 20, 2, 1, 5, 3, "initial").OfType<Tensor>().ToArray();
        var expected = Differentiation.OfSquares(inputs, x => Output(StateSpaceDuality.Reference(
            x[0], x[1], x[2], x[3], x[4], null, null, null, true, null, null, x[5], null, null, StateSpaceDuality.DefaultChunkSize)), ScalarType.Float64);
        var actual = Differentiation.OfSquares(inputs, x => Output(StateSpaceDuality.Cuda(
            StateSpaceDuality.Kernel(HostCuda.Runtime()), x[0], x[1], x[2], x[3], x[4], null, null, null, new ScanSteps(true, null, null), x[5], null, null)));
        foreach (var (gradient, other) in expected.Zip(actual))
        {
            TensorAssert.Close(gradient, other, Tolerance, "gradient");
        }

        Tensor Output((Tensor Y, Tensor State) outputs) => ofState ? outputs.State : outputs.Y;
    }

    [Fact]
    public void ASecondDerivativeIsThatOfTheReference()
    {
        using var scope = NewDisposeScope();
        manual_seed(24);
        var inputs = DualityKernelCase.Inputs(1, 20, 2, 1, 4, 3, "").OfType<Tensor>().ToArray();
        Tensor[] leaves = [inputs[1], inputs[3]];
        TensorAssert.Close(
            Differentiation.Second(leaves, x => StateSpaceDuality.Reference(
                inputs[0], x[0], inputs[2], x[1], inputs[4], null, null, null, true, null, null, null, null, null, StateSpaceDuality.DefaultChunkSize).Y),
            Differentiation.Second(leaves, x => StateSpaceDuality.Cuda(
                StateSpaceDuality.Kernel(HostCuda.Runtime()), inputs[0], x[0], inputs[2], x[1], inputs[4], null, null, null, new ScanSteps(true, null, null),
                null, null, null, stateGradient: false).Y),
            1e-4, "second derivative");
    }

    /// <summary>Compares the kernels of a device with the reference.</summary>
    internal static void Check(
        DeltaOnCuda kernel, Device device, double tolerance, long batch, long time, long heads, long groups, long headWidth, long n, string with) =>
        DualityKernelCase.Check(
            (x, steps, mask, restart) => StateSpaceDuality.Cuda(kernel, x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], steps, x[8], mask, restart),
            device, tolerance, batch, time, heads, groups, headWidth, n, with, stepwise: true);
}
