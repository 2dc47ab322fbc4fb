using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The norm's CUDA kernels, on a CPU in the place of a device.</summary>
public class NormOnCudaTests
{
    // Sums of up to 1,000 float32 products; gradients of the weight sum 200 rows.
    private const double Tolerance = 3e-6;

    public static TheoryData<long, long, long, string> Forms => NormKernelCase.All;

    [Theory]
    [MemberData(nameof(Forms))]
    public void EqualsTheComposedFormWithGradients(long rows, long width, long groups, string with) =>
        NormKernelCase.Check(new NormOnCuda(HostCuda.Runtime()), CPU, Tolerance, rows, width, groups, with);

    /// <summary>As the layers round: the normal value to bfloat16, then its product with the weight.</summary>
    [Fact]
    public void TheNormalValueIsRoundedBeforeItIsScaled()
    {
        using var scope = NewDisposeScope();
        manual_seed(2);
        var (x, weight) = (randn(6, 100).to_type(ScalarType.BFloat16), randn(100).to_type(ScalarType.BFloat16));
        var y = CudaNorm.Apply(new NormOnCuda(HostCuda.Runtime()), x, null, weight, new NormForm(1e-5, RoundNormal: true));
        var wide = x.to_type(ScalarType.Float32);
        var normal = (wide * (wide.square().mean([-1], keepdim: true) + 1e-5).rsqrt()).to_type(ScalarType.BFloat16);
        Assert.Equal(ScalarType.BFloat16, y.dtype);

        // A sum in another order may round a normal value the other way: seldom, and then by one unit in the last place.
        Assert.InRange(y.ne(normal * weight).sum().ToInt64(), 0, 6);
        TensorAssert.Close(normal * weight, y, 1e-2, "y");
    }

    /// <summary>A factor of 1 plus a weight, and none at all, as the layer does it: rounded once, behind the factor.</summary>
    [Theory]
    [InlineData(NormScale.OnePlusWeight, ScalarType.BFloat16, ScalarType.BFloat16)]
    [InlineData(NormScale.OnePlusWeight, ScalarType.Float16, ScalarType.Float16)]
    [InlineData(NormScale.OnePlusWeight, ScalarType.BFloat16, ScalarType.Float32)]
    [InlineData(NormScale.None, ScalarType.BFloat16, ScalarType.Float32)]
    public void OtherScalesAreRoundedOnceAsInTheLayer(NormScale scale, ScalarType type, ScalarType weightType)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        using var layer = new RmsNorm(100, 1e-5, scale) { UseFusedKernels = false };
        layer.to(weightType);
        var weight = layer.get_parameter("weight");
        weight?.detach().copy_(randn(100));
        var x = randn(6, 100).to_type(type);
        var shift = scale == NormScale.OnePlusWeight ? 1 : 0;
        var y = CudaNorm.Apply(new NormOnCuda(HostCuda.Runtime()), x, null, weight, new NormForm(1e-5, WeightShift: shift));
        var expected = layer.call(x);
        Assert.Equal(type, y.dtype);
        Assert.InRange(y.ne(expected).sum().ToInt64(), 0, 6);
        TensorAssert.Close(expected, y, 1e-2, "y");
    }

    /// <summary>Widths in packs of eight elements, for a warp and for a block, and one that is not.</summary>
    [Theory]
    [InlineData(ScalarType.BFloat16, 104, 1e-2)]
    [InlineData(ScalarType.Float16, 104, 2e-3)]
    [InlineData(ScalarType.BFloat16, 1048, 1e-2)]
    [InlineData(ScalarType.BFloat16, 101, 1e-2)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType type, long width, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(4);
        var norm = new NormOnCuda(HostCuda.Runtime());
        Tensor[] inputs = [randn(30, width).to_type(type), randn(width).to_type(type), randn(30, width).to_type(type)];
        var form = new NormForm(1e-5, GateOrder.AfterNorm);
        var half = Differentiation.Results(inputs, x => [CudaNorm.Apply(norm, x[0], x[2], x[1], form)]);
        var wide = Differentiation.Results(inputs, x => [CudaNorm.Composed(x[0], x[2], x[1], form)], ScalarType.Float32);
        foreach (var (i, expected) in wide.Index())
        {
            Assert.Equal(type, half[i].dtype);
            TensorAssert.Close(expected, half[i], rounding, $"tensor {i} of y and the gradients of the inputs");
        }
    }

    [Fact]
    public void StridedInputsAndNoRowsAtAll()
    {
        using var scope = NewDisposeScope();
        var norm = new NormOnCuda(HostCuda.Runtime());
        var (x, weight) = (randn(6, 5, 2), randn(6));
        TensorAssert.Identical(
            CudaNorm.Apply(norm, x.permute(2, 1, 0).contiguous(), null, weight, new NormForm(1e-5)),
            CudaNorm.Apply(norm, x.permute(2, 1, 0), null, weight, new NormForm(1e-5)), "permuted");
        Assert.Equal([0, 6], CudaNorm.Apply(norm, zeros(0, 6), null, weight, new NormForm(1e-5)).shape);
    }
}
