using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// A linear layer <c>y = x W^T + b</c> for decoding: for few rows of x its time is that of reading W once, which a matrix product does not
/// reach. Float32 and bfloat16 on CPU, float16 too on CUDA, while autograd does not record; all else runs as a matrix product.
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
    public static Tensor Apply(Linear layer, Tensor x, bool fused = true) =>
        fused && Runs(x) && Apply(x, layer.weight, layer.bias, null, null) is { } y ? y : layer.call(x);

    /// <summary>Applies weights.</summary>
    /// <param name="x">[..., K].</param>
    /// <param name="weight">W [O, K], in the dtype of <paramref name="x"/>.</param>
    /// <param name="bias">b [O], or null.</param>
    /// <returns>[..., O].</returns>
    public static Tensor Linear(Tensor x, Tensor weight, Tensor? bias = null) =>
        Runs(x) && Apply(x, weight, bias, null, null) is { } y ? y : nn.functional.linear(x, weight, bias);

    /// <summary>Applies a layer in a step; its result belongs to the buffers.</summary>
    /// <param name="layer">W and b.</param>
    /// <param name="x">[..., K].</param>
    /// <param name="buffers">Of the step.</param>
    /// <param name="residual">Added to the result [..., O]; null adds nothing.</param>
    /// <returns>[..., O].</returns>
    internal static Tensor Apply(Linear layer, Tensor x, StepBuffers buffers, Tensor? residual = null)
    {
        if (Runs(x) && (residual is null || (residual.is_contiguous() && residual.dtype == x.dtype))
            && Apply(x, layer.weight, layer.bias, residual, buffers) is { } y)
        {
            return y;
        }

        var product = buffers.Adopt(layer.call(x));
        return residual is null ? product : product.add_(residual);
    }

    /// <summary>True where the kernel may run. Only a failed self-test is logged: all else is what it is not made for.</summary>
    private static bool Runs(Tensor x)
    {
        if (is_grad_enabled() || KernelDispatcher.ReferenceOnly)
        {
            return false;
        }

        if (CudaRuntime.Holds(x))
        {
            return LinearStepOnCuda.OnCuda.For(("x", x)) is not null;
        }

        if (x.device_type != DeviceType.CPU || x.dtype is not (ScalarType.Float32 or ScalarType.BFloat16))
        {
            return false;
        }

        if (KernelDispatcher.Agrees(nameof(LinearStep), static () => Compare(CPU), out var reason))
        {
            return true;
        }

        KernelDispatcher.Refused(nameof(LinearStep), reason);
        return false;
    }

    /// <summary>The self-test: two types of weights, with vector tails and without.</summary>
    internal static string? Compare(Device device)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        return Difference(83, ScalarType.Float32, 1e-5) ?? Difference(83, ScalarType.BFloat16, 1.0 / 128)
            ?? Difference(96, ScalarType.Float32, 1e-5) ?? Difference(96, ScalarType.BFloat16, 1.0 / 128);

        string? Difference(long width, ScalarType dtype, double tolerance)
        {
            var (input, matrix, offset, sum) = (Of(1, 2, width), Of(2, 7, width), Of(3, 7), Of(4, 2, 7));
            var product = nn.functional.linear(input.to_type(ScalarType.Float64), matrix.to_type(ScalarType.Float64), offset.to_type(ScalarType.Float64));
            var expected = product + sum.to_type(ScalarType.Float64);
            return SelfTest.Compare([expected], [Apply(input, matrix, offset, sum, null)!], tolerance);

            Tensor Of(int seed, params long[] shape) => SelfTest.Values(seed, 1, shape).to(device).to_type(dtype);
        }
    }

    /// <summary>Null where shapes or dtypes are none for this kernel; the matrix product says what is wrong with them, if anything is.</summary>
    private static Tensor? Apply(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, StepBuffers? buffers)
    {
        if (x.Dimensions == 0 || weight.Dimensions != 2)
        {
            return null;
        }

        var (outputs, width) = (weight.size(0), weight.size(1));
        if (x.size(-1) != width || width == 0)
        {
            return null;
        }

        var rows = x.numel() / width;
        var (dtype, device) = (x.dtype, x.device_type);
        if (rows is < 1 or > MaxRows || weight.dtype != dtype || weight.device_type != device || !weight.is_contiguous()
            || (bias is not null && (bias.dtype != dtype || bias.device_type != device || bias.dim() != 1 || bias.size(0) != outputs)))
        {
            return null;
        }

        if (CudaRuntime.Of(x) is { } runtime)
        {
            return new LinearStepOnCuda(runtime).Run(x, weight, bias, residual, Output(x, outputs, buffers), (int)rows);
        }

        return dtype == ScalarType.Float32
            ? RunFloat32(x, weight, bias, residual, Output(x, outputs, buffers), (int)rows)
            : RunBFloat16(x, weight, bias, residual, (int)rows, buffers);
    }

    private static Tensor Output(Tensor x, long outputs, StepBuffers? buffers) =>
        buffers?.TakeLike(x, outputs) ?? empty(Shape(x, outputs), dtype: x.dtype, device: x.device);

    private static long[] Shape(Tensor x, long outputs)
    {
        var shape = x.shape;
        shape[^1] = outputs;
        return shape;
    }

    private static Tensor RunFloat32(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor y, int rows)
    {
        using var inputCopy = TensorMemory.CopyUnlessContiguous(x);
        using var biasCopy = TensorMemory.CopyUnlessContiguous(bias);
        var (input, offset) = (inputCopy ?? x, biasCopy ?? bias);
        Run<Float32Weights>(new LinearStepSizes
        {
            Input = (float*)TensorMemory.Address(input),
            Weights = TensorMemory.Address(weight),
            Bias = Address(offset),
            Residual = Address(residual),
            Output = (float*)TensorMemory.Address(y),
            Rows = rows,
            Width = (int)weight.size(1),
            Outputs = (int)weight.size(0),
        });
        KeepAlive(input, weight, offset, residual, y);
        return y;
    }

    /// <summary>The few rows of x, b, the residual and y become float32; W, which is what takes time, is read as it is.</summary>
    private static Tensor RunBFloat16(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int rows, StepBuffers? buffers)
    {
        using var scope = NewDisposeScope();
        var input = x.to_type(ScalarType.Float32).contiguous();
        var (offset, sum) = (bias?.to_type(ScalarType.Float32).contiguous(), residual?.to_type(ScalarType.Float32));
        var outputs = weight.size(0);
        var y = empty(Shape(x, outputs), dtype: ScalarType.Float32);
        Run<BFloat16Weights>(new LinearStepSizes
        {
            Input = (float*)TensorMemory.Address(input),
            Weights = TensorMemory.Address(weight),
            Bias = Address(offset),
            Residual = Address(sum),
            Output = (float*)TensorMemory.Address(y),
            Rows = rows,
            Width = (int)weight.size(1),
            Outputs = (int)outputs,
        });
        KeepAlive(input, weight, offset, sum, y);
        var rounded = y.to_type(ScalarType.BFloat16).MoveToOuterDisposeScope();
        return buffers?.Adopt(rounded) ?? rounded;
    }

    /// <summary>The kernel itself, for callers that hold addresses.</summary>
    internal static void Run<TWeights>(LinearStepSizes sizes)
        where TWeights : struct, IStoredWeights => LaneWidth.Run(new Kernel<TWeights>(sizes));

    private static float* Address(Tensor? tensor) => tensor is null ? null : (float*)TensorMemory.Address(tensor);

    private static void KeepAlive(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, Tensor output)
    {
        GC.KeepAlive(input);
        GC.KeepAlive(weight);
        GC.KeepAlive(bias);
        GC.KeepAlive(residual);
        GC.KeepAlive(output);
    }

    private readonly struct Kernel<TWeights>(LinearStepSizes sizes) : ILaneCode
        where TWeights : struct, IStoredWeights
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane> => WorkerTeam.Run(new LinearStepKernel<TLane, TWeights>(sizes), sizes.Parts(TWeights.Size));
    }
}
