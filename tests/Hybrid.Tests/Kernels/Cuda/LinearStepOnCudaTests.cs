using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>Matrix-vector products and lookups of a decoding step on CUDA, on a CPU in the place of a device.</summary>
public class LinearStepOnCudaTests
{
    // Sums of up to 1,000 products of float32 numbers.
    private const double Tolerance = 2e-6;

    /// <summary>Widths around what the lanes of a warp read at once, with and without a bias and a residual, in every dtype.</summary>
    [Theory]
    [InlineData(1, 1, 1)]
    [InlineData(1, 7, 130)]
    [InlineData(1, 128, 5)]
    [InlineData(2, 1000, 33)]
    [InlineData(3, 132, 4)]
    [InlineData(8, 264, 17)]
    public void EqualsTheMatrixProduct(int rows, int width, int outputs)
    {
        using var scope = NewDisposeScope();
        var (x, weight, bias) = (Values.Normal(1, rows, width), Values.Normal(2, outputs, width), Values.Normal(3, outputs));
        foreach (var (dtype, tolerance) in new[] { (ScalarType.Float32, Tolerance), (ScalarType.BFloat16, 1.0 / 256), (ScalarType.Float16, 1.0 / 2048) })
        {
            foreach (var (offset, residual) in new (Tensor?, Tensor?)[] { (null, null), (bias, null), (null, Values.Normal(4, rows, outputs)) })
            {
                var (input, matrix, b, sum) = (x.to_type(dtype), weight.to_type(dtype), offset?.to_type(dtype), residual?.to_type(dtype));
                var y = new LinearStepOnCuda(HostCuda.Runtime()).Run(input, matrix, b, sum, empty([rows, outputs], dtype: dtype), rows);
                var product = nn.functional.linear(input.@double(), matrix.@double(), b?.@double());
                TensorAssert.Close(sum is null ? product : product + sum.@double(), y, tolerance, $"{dtype}");
            }
        }
    }

    /// <summary>Memory that does not begin at a multiple of 16 bytes, and rows that are not next to each other.</summary>
    [Fact]
    public void TakesAnyAddressAndStride()
    {
        using var scope = NewDisposeScope();
        var (memory, x) = (Values.Normal(1, (5 * 128) + 1), Values.Normal(2, 128, 2).t());
        var weight = memory.narrow(0, 1, 5 * 128).view(5, 128);
        var y = new LinearStepOnCuda(HostCuda.Runtime()).Run(x, weight, null, null, empty(2, 5), 2);
        TensorAssert.Close(nn.functional.linear(x.@double(), weight.@double()), y, Tolerance, "y");
    }

    [Fact]
    public void AnIdThatIsNoneGivesNoNumbers()
    {
        using var scope = NewDisposeScope();
        var (weight, ids) = (Values.Normal(1, 5, 100), tensor(new long[] { 4, 5, 0, -1 }).view(4, 1));
        var y = new EmbeddingOnCuda(HostCuda.Runtime()).Run(weight, ids, empty(4, 1, 100));
        TensorAssert.Identical(weight[4], y[0, 0], "id 4");
        TensorAssert.Identical(weight[0], y[2, 0], "id 0");
        Assert.True(y[1].isnan().all().ToBoolean() && y[3].isnan().all().ToBoolean());
    }
}
