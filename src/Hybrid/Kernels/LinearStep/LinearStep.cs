using Hybrid.Kernels.Cpu;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// A linear layer <c>y = x W^T + b</c> for decoding: for few rows of x its time is that of reading W once, which a matrix product does not
/// reach. Float32 and bfloat16 on CPU, while autograd does not record; all else runs as a matrix product.
/// </summary>
public static unsafe class LinearStep
{
    /// <summary>Above this the arithmetic takes longer than the reading, and a matrix product is the better choice.</summary>
    private const long MaxRows = 8;

    /// <summary>Applies a layer.</summary>
    /// <param name="layer">W [O, K] and its bias [O] or none.</param>
    /// <param name="x">[..., K], in the dtype of the weights.</param>
    /// <param name="fused">False for the matrix product whatever the rows.</param>
    /// <returns>[..., O].</returns>
    public static Tensor Apply(Linear layer, Tensor x, bool fused = true) => fused && Runs(x) && Apply(x, layer.weight, layer.bias) is { } y ? y : layer.call(x);

    /// <summary>Applies weights.</summary>
    /// <param name="x">[..., K].</param>
    /// <param name="weight">W [O, K], in the dtype of <paramref name="x"/>.</param>
    /// <param name="bias">b [O], or null.</param>
    /// <returns>[..., O].</returns>
    public static Tensor Linear(Tensor x, Tensor weight, Tensor? bias = null) =>
        Runs(x) && Apply(x, weight, bias) is { } y ? y : nn.functional.linear(x, weight, bias);

    /// <summary>True where the kernel may run. Only a failed self-test is logged: all else is what it is not made for.</summary>
    private static bool Runs(Tensor x)
    {
        if (is_grad_enabled() || KernelDispatcher.ReferenceOnly || x.device_type != DeviceType.CPU || x.dtype is not (ScalarType.Float32 or ScalarType.BFloat16))
        {
            return false;
        }

        if (KernelDispatcher.Agrees(nameof(LinearStep), Compare, out var reason))
        {
            return true;
        }

        KernelDispatcher.Refused(nameof(LinearStep), reason);
        return false;
    }

    /// <summary>The self-test: both types of weights, with vector tails.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        var (x, weight, bias) = (SelfTest.Values(1, 1, 2, 83), SelfTest.Values(2, 1, 7, 83), SelfTest.Values(3, 1, 7));
        return Difference(ScalarType.Float32, 1e-5) ?? Difference(ScalarType.BFloat16, 1.0 / 128);

        string? Difference(ScalarType dtype, double tolerance)
        {
            var (input, matrix, offset) = (x.to_type(dtype), weight.to_type(dtype), bias.to_type(dtype));
            var expected = nn.functional.linear(input.to_type(ScalarType.Float64), matrix.to_type(ScalarType.Float64), offset.to_type(ScalarType.Float64));
            return SelfTest.Compare([expected], [Apply(input, matrix, offset)!], tolerance);
        }
    }

    /// <summary>Null where shapes or dtypes are none for this kernel; the matrix product says what is wrong with them, if anything is.</summary>
    private static Tensor? Apply(Tensor x, Tensor weight, Tensor? bias)
    {
        var shape = x.shape;
        if (shape.Length == 0 || weight.Dimensions != 2)
        {
            return null;
        }

        var (outputs, width) = (weight.size(0), weight.size(1));
        if (shape[^1] != width || width == 0)
        {
            return null;
        }

        var rows = 1L;
        foreach (var size in shape.AsSpan(0, shape.Length - 1))
        {
            rows *= size;
        }

        var dtype = x.dtype;
        if (rows is < 1 or > MaxRows || weight.dtype != dtype || weight.device_type != DeviceType.CPU || !weight.is_contiguous()
            || (bias is not null && (bias.dtype != dtype || bias.device_type != DeviceType.CPU || bias.dim() != 1 || bias.size(0) != outputs)))
        {
            return null;
        }

        shape[^1] = outputs;
        return dtype == ScalarType.Float32
            ? RunFloat32(x, weight, bias, shape, (int)rows)
            : RunBFloat16(x, weight, bias, shape, (int)rows);
    }

    private static Tensor RunFloat32(Tensor x, Tensor weight, Tensor? bias, long[] shape, int rows)
    {
        using var inputCopy = TensorMemory.CopyUnlessContiguous(x);
        using var biasCopy = TensorMemory.CopyUnlessContiguous(bias);
        var (input, offset) = (inputCopy ?? x, biasCopy ?? bias);
        var y = empty(shape, dtype: ScalarType.Float32);
        Run<Float32Weights>(new LinearStepSizes
        {
            Input = (float*)TensorMemory.Address(input),
            Weights = TensorMemory.Address(weight),
            Bias = offset is null ? null : (float*)TensorMemory.Address(offset),
            Output = (float*)TensorMemory.Address(y),
            Rows = rows,
            Width = (int)weight.size(1),
            Outputs = (int)shape[^1],
        });
        KeepAlive(input, weight, offset, y);
        return y;
    }

    /// <summary>The few rows of x, b and y become float32; W, which is what takes time, is read as it is.</summary>
    private static Tensor RunBFloat16(Tensor x, Tensor weight, Tensor? bias, long[] shape, int rows)
    {
        using var scope = NewDisposeScope();
        var input = x.to_type(ScalarType.Float32).contiguous();
        var offset = bias?.to_type(ScalarType.Float32).contiguous();
        var y = empty(shape, dtype: ScalarType.Float32);
        Run<BFloat16Weights>(new LinearStepSizes
        {
            Input = (float*)TensorMemory.Address(input),
            Weights = TensorMemory.Address(weight),
            Bias = offset is null ? null : (float*)TensorMemory.Address(offset),
            Output = (float*)TensorMemory.Address(y),
            Rows = rows,
            Width = (int)weight.size(1),
            Outputs = (int)shape[^1],
        });
        KeepAlive(input, weight, offset, y);
        return y.to_type(ScalarType.BFloat16).MoveToOuterDisposeScope();
    }

    /// <summary>The kernel itself, for callers that hold addresses.</summary>
    internal static void Run<TWeights>(LinearStepSizes sizes)
        where TWeights : struct, IStoredWeights => LaneWidth.Run(new Kernel<TWeights>(sizes));

    private static void KeepAlive(Tensor input, Tensor weight, Tensor? bias, Tensor output)
    {
        GC.KeepAlive(input);
        GC.KeepAlive(weight);
        GC.KeepAlive(bias);
        GC.KeepAlive(output);
    }

    private readonly struct Kernel<TWeights>(LinearStepSizes sizes) : ILaneCode
        where TWeights : struct, IStoredWeights
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane> => WorkerTeam.Run(new LinearStepKernel<TLane, TWeights>(sizes), sizes.Parts(TWeights.Size));
    }
}
