using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The convolution's CUDA kernels, on a CPU in the place of a device.</summary>
public class ConvOnCudaTests
{
    // Sums of at most 40 products and, for the taps, of 200 rows and steps.
    private const double Tolerance = 2e-6;

    public static TheoryData<long, long, long, long, string> Cases => ConvKernelCase.All;

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReference(long batch, long time, long channels, long width, string with) =>
        ConvKernelCase.Check(new ConvOnCuda(HostCuda.Runtime()), CPU, Tolerance, batch, time, channels, width, with);

    [Fact]
    public void ReadsSlicesOfLargerTensors()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var kernel = new ConvOnCuda(HostCuda.Runtime());
        var (wide, taps, history) = (randn(2, 40, 62), randn(20, 4), randn(2, 5, 41));
        var (x, state) = (wide.narrow(2, 21, 20), history.narrow(1, 2, 3).narrow(2, 7, 20));
        var (y, last) = CausalConv1d.Fused(kernel, x, taps, null, Activation.Silu, state, null, null);
        var (expected, expectedLast) = CausalConv1d.Fused(kernel, x.contiguous(), taps, null, Activation.Silu, state.contiguous(), null, null);
        TensorAssert.Identical(expected, y, "slices and copies");
        TensorAssert.Identical(expectedLast, last, "states of slices and copies");
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, 1e-2)]
    [InlineData(ScalarType.Float16, 2e-3)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType dtype, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(23);
        var kernel = new ConvOnCuda(HostCuda.Runtime());
        Tensor[] inputs = [randn(2, 70, 37).to_type(dtype), randn(37, 4).to_type(dtype), randn(37).to_type(dtype), randn(2, 3, 37).to_type(dtype)];
        var upstream = randn(2, 70, 37).to_type(dtype);
        var half = Results(dtype, x => CausalConv1d.Fused(kernel, x[0], x[1], x[2], Activation.Silu, x[3], null, null).Y);
        var wide = Results(ScalarType.Float32, x => CausalConv1d.Reference(x[0], x[1], x[2], Activation.Silu, x[3], null, null).Y);
        foreach (var (i, expected) in wide.Index())
        {
            Assert.Equal(dtype, half[i].dtype);
            TensorAssert.Close(expected, half[i], rounding, $"tensor {i} of y and the gradients of the inputs");
        }

        List<Tensor> Results(ScalarType precision, Func<Tensor[], Tensor> convolve)
        {
            var x = inputs.Select(input => input.to_type(precision).detach().clone().requires_grad_(true)).ToArray();
            var y = convolve(x);
            y.backward([upstream.to_type(precision)]);
            return [y.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
