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
        Tensor[] inputs = [Values.Normal(1, rows, width), Values.Normal(2, width), Values.Normal(3, rows, width)];
        TensorAssert.AllClose(Run([.. inputs.Select(input => input.@double())]), Run(inputs), Tolerance, "norm", "y", "dx", "dweight");
    }

    /// <summary>Groups around the width of a register, and a gate that is a slice of a wider tensor, as layers cut it.</summary>
    [Theory]
    [InlineData(1, 3, 1)]
    [InlineData(2, 15, 3)]
    [InlineData(3, 16, 1)]
    [InlineData(2, 34, 2)]
    [InlineData(5, 31, 1)]
    [InlineData(7, 128, 2)]
    [InlineData(100, 600, 1)]
    public void TheGatedNormEqualsTheComposedFormWithGradients(int rows, int width, int groups)
    {
        using var scope = NewDisposeScope();
        foreach (var normBeforeGate in new[] { false, true })
        {
            var inputs = GatedInputs(rows, width);
            var fast = RunGated(inputs, normBeforeGate, groups);
            var reference = RunGated([.. inputs.Select(input => input.@double())], normBeforeGate, groups);
            TensorAssert.AllClose(reference, fast, Tolerance, $"norm before gate {normBeforeGate}", "y", "dx", "dz", "dweight");
        }
    }

    /// <summary>Half-precision inputs are computed in float32: rounded once at the input and once at the output.</summary>
    [Theory]
    [InlineData(NormScale.Weight)]
    [InlineData(NormScale.OnePlusWeight)]
    [InlineData(NormScale.None)]
    public void EveryScaleAndTypeEqualsPlainTensorOperations(NormScale scale)
    {
        using var scope = NewDisposeScope();
        foreach (var dtype in new[] { ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float16 })
        {
            using var norm = new RmsNorm(37, 1e-3, scale);
            norm.to(dtype);
            norm.get_parameter("weight")?.detach().copy_(Values.Normal(2, 37));
            var x = Values.Normal(1, 5, 37).to_type(dtype);
            var fast = norm.call(x);
            using var choice = new KernelChoice(referenceOnly: true);
            Assert.Equal(dtype, fast.dtype);
            TensorAssert.Close(norm.call(x), fast, dtype == ScalarType.Float32 ? Tolerance : 1.0 / 128, $"{scale} {dtype}");
        }
    }

    [Fact]
    public void TheNumberOfThreadsDoesNotChangeABit()
    {
        using var scope = NewDisposeScope();
        var inputs = GatedInputs(300, 257);
        ThreadCount.ChangesNothing(() => Run([inputs[0], inputs[2], inputs[3]]));
        ThreadCount.ChangesNothing(() => RunGated(inputs, normBeforeGate: false, 1));
        ThreadCount.ChangesNothing(() => RunGated(inputs, normBeforeGate: true, 1));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void NotANumberInTheGateStaysWhereItReaches(bool normBeforeGate)
    {
        using var scope = NewDisposeScope();
        using var norm = new GatedRmsNorm(20, normBeforeGate: normBeforeGate, groups: 2);
        var (x, z) = (Values.Normal(1, 3, 20), Values.Normal(2, 3, 20));
        z[1, 19] = float.NaN;
        Assert.Equal(normBeforeGate ? 1 : 10, norm.call(x, z)[1].isnan().sum().ToInt64());
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

    /// <summary>x, z as a slice, weight and upstream.</summary>
    private static Tensor[] GatedInputs(int rows, int width) =>
    [
        Values.Normal(1, rows, width), Values.Normal(4, rows, (2 * width) + 3).narrow(-1, width, width), Values.Normal(2, width), Values.Normal(3, rows, width),
    ];

    /// <summary>y and the gradients of x, z and weight.</summary>
    private static List<Tensor> RunGated(Tensor[] inputs, bool normBeforeGate, int groups)
    {
        var weight = inputs[2];
        using var norm = new GatedRmsNorm(weight.size(0), 1e-3, normBeforeGate, groups);
        norm.to(weight.dtype);
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = weight });
        Tensor[] leaves = [inputs[0].detach().requires_grad_(true), inputs[1].detach().requires_grad_(true)];
        var y = norm.call(leaves[0], leaves[1]);
        (y * inputs[3]).sum().backward();
        return [y.detach(), leaves[0].grad!, leaves[1].grad!, norm.get_parameter("weight")!.grad!.clone()];
    }

    /// <summary>From x, weight and upstream: y and the gradients of x and weight.</summary>
    private static List<Tensor> Run(Tensor[] inputs)
    {
        var (leaf, weight) = (inputs[0].detach().clone().requires_grad_(true), inputs[1]);
        using var norm = new RmsNorm(weight.size(0), 1e-3);
        norm.to(weight.dtype);
        norm.load_state_dict(new Dictionary<string, Tensor> { ["weight"] = weight });
        var y = norm.call(leaf);
        (y * inputs[2]).sum().backward();
        return [y.detach(), leaf.grad!, norm.get_parameter("weight")!.grad!.clone()];
    }
}
