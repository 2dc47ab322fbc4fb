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

    /// <summary>
    /// Threads take two channels of 16 bits where all of them are in words, else one; both add up in the same order. Elements an odd number
    /// apart, or from an odd one on, are not.
    /// </summary>
    [Theory]
    [InlineData(4, 0, 22, false)]
    [InlineData(4, 1, 24, false)]
    [InlineData(4, 1, 23, false)]
    [InlineData(4, 1, 24, true)]
    [InlineData(9, 1, 24, false)]
    public void OneChannelOrTwoAThreadGiveTheSame(long width, long first, long distance, bool packed)
    {
        using var scope = NewDisposeScope();
        manual_seed(24);
        var kernel = new ConvOnCuda(HostCuda.Runtime());
        var x = randn(2, 75, distance).to_type(ScalarType.BFloat16).narrow(2, first, 22);
        Tensor[] rest = [randn(22, width), randn(22), randn(2, width - 1, 22).to_type(ScalarType.BFloat16)];
        var ids = packed ? rand(2, 75).gt(0.8).to_type(ScalarType.Int64).cumsum(1) : null;
        var expected = Results(x.contiguous());
        foreach (var (i, actual) in Results(x).Index())
        {
            TensorAssert.Identical(expected[i], actual, $"tensor {i} of y and the gradients of the inputs");
        }

        Tensor[] Results(Tensor input) => Differentiation.OfFirstOutput(
            rest.Prepend(input), ones(2, 75, 22), leaves => [CausalConv1d.Fused(kernel, leaves[0], leaves[1], leaves[2], Activation.Silu, leaves[3], null, ids).Y]);
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, 37, 1e-2)]
    [InlineData(ScalarType.Float16, 37, 2e-3)]
    [InlineData(ScalarType.BFloat16, 38, 1e-2)]
    [InlineData(ScalarType.Float16, 38, 2e-3)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType dtype, long channels, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(23);
        var kernel = new ConvOnCuda(HostCuda.Runtime());
        Tensor[] inputs = [randn(2, 70, channels).to_type(dtype), randn(channels, 4).to_type(dtype), randn(channels).to_type(dtype), randn(2, 3, channels).to_type(dtype)];
        Differentiation.HalfEqualsWide(
            inputs, randn(2, 70, channels).to_type(dtype), x => [CausalConv1d.Fused(kernel, x[0], x[1], x[2], Activation.Silu, x[3], null, null).Y],
            x => [CausalConv1d.Reference(x[0], x[1], x[2], Activation.Silu, x[3], null, null).Y], rounding);
    }
}
