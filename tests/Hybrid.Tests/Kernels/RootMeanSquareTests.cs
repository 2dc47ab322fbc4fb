using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class RootMeanSquareTests
{
    // Sums of up to 1,000 float32 products; gradients of the weight sum 200 rows.
    private const double Tolerance = 3e-6;

    [Theory]
    [InlineData(1, 2)]
    [InlineData(1, 3)]
    [InlineData(2, 15)]
    [InlineData(3, 16)]
    [InlineData(2, 17)]
    [InlineData(5, 31)]
    [InlineData(2, 33)]
    [InlineData(7, 64)]
    [InlineData(200, 1000)]
    public void EqualsTheComposedFormWithGradients(int rows, int width)
    {
        using var scope = NewDisposeScope();
        var (x, weight, gradient) = (Values.Normal(1, rows, width), Values.Normal(2, width), Values.Normal(3, rows, width));
        var (y, gradX, gradWeight) = Run(x, weight, gradient);
        var (expected, expectedX, expectedWeight) = Run(x.@double(), weight.@double(), gradient.@double());
        TensorAssert.Close(expected, y, Tolerance, "output");
        TensorAssert.Close(expectedX, gradX, Tolerance, "gradient of x");
        TensorAssert.Close(expectedWeight, gradWeight, Tolerance, "gradient of the weight");
    }

    [Fact]
    public void TheNumberOfThreadsDoesNotChangeABit()
    {
        using var scope = NewDisposeScope();
        var (x, weight, gradient) = (Values.Normal(1, 300, 257), Values.Normal(2, 257), Values.Normal(3, 300, 257));
        (Tensor, Tensor, Tensor) RunOn(int threads)
        {
            using var count = new ThreadCount(threads);
            return Run(x, weight, gradient);
        }

        var alone = RunOn(1);
        var shared = RunOn(3);
        TensorAssert.Identical(alone.Item1, shared.Item1, "output");
        TensorAssert.Identical(alone.Item2, shared.Item2, "gradient of x");
        TensorAssert.Identical(alone.Item3, shared.Item3, "gradient of the weight");
    }

    [Fact]
    public void NotANumberStaysInItsRow()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(20);
        var x = Values.Normal(1, 3, 20);
        x[1, 19] = float.NaN;
        var y = norm.call(x);
        Assert.True(y[1].isnan().all().ToBoolean());
        Assert.Equal(40, y.isfinite().sum().ToInt64());
    }

    [Fact]
    public void TakesStridedInputsAndNoRowsAtAll()
    {
        using var scope = NewDisposeScope();
        using var norm = new RmsNorm(6);
        var x = Values.Normal(1, 6, 5, 2).requires_grad_(true);
        var y = norm.call(x.permute(2, 1, 0));
        TensorAssert.Identical(norm.call(x.permute(2, 1, 0).contiguous()), y, "permuted");
        y.sum().backward();
        Assert.Equal([6, 5, 2], x.grad!.shape);
        Assert.Equal([0, 6], norm.call(zeros(0, 6)).shape);
    }

    [Fact]
    public void LeavesNoTensorBehind()
    {
        using var norm = new RmsNorm(33);
        using var x = Values.Normal(1, 4, 33).requires_grad_(true);
        Step();
        var before = LiveTensors.Before();
        Step();
        Assert.Equal(before, LiveTensors.Before());

        void Step()
        {
            using var scope = NewDisposeScope();
            norm.call(x).sum().backward();
        }
    }

    private static (Tensor Y, Tensor GradX, Tensor GradWeight) Run(Tensor x, Tensor weight, Tensor gradient)
    {
        using var norm = new RmsNorm(weight.size(0), 1e-3);
        norm.to(x.dtype);
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = weight });
        var leaf = x.detach().clone().requires_grad_(true);
        var y = norm.call(leaf);
        (y * gradient).sum().backward();
        return (y.detach(), leaf.grad!, norm.get_parameter("weight")!.grad!.clone());
    }
}
