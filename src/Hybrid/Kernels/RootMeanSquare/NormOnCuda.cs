using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct NormArguments of root_mean_square.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct NormArguments
{
    public nint X;
    public nint Z;
    public nint Weight;
    public nint Y;
    public nint XGradient;
    public nint ZGradient;
    public nint Inverse;
    public nint WeightGradient;
    public long Rows;
    public long Width;
    public long Groups;
    public long Parts;
    public int NormBeforeGate;
    public int RoundNormal;
    public float Epsilon;
    public float WeightShift;
}

/// <summary>The tensors of a norm: x and its gate [..., width] of one dtype, or no gate, and the weight [width] in float32, or none; all contiguous.</summary>
internal sealed record NormTensors(Tensor X, Tensor? Z, Tensor? Weight);

/// <summary>Runs the kernels of root_mean_square.cu.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class NormOnCuda(CudaRuntime runtime)
{
    private const int WarpThreads = 32;
    private const int BlockThreads = 128;

    /// <summary>Above this width a block goes over a row, below it a warp.</summary>
    private const int WidestWarpRow = 512;

    /// <summary>Tokens whose gradients of the weight one thread adds up, and the most parts there are.</summary>
    private const int PartTokens = 64;
    private const int MostParts = 512;

    /// <summary>y, and 1 / sqrt(mean square + eps) of each row where a backward pass will need it.</summary>
    /// <param name="tensors">The inputs.</param>
    /// <param name="form">What is computed.</param>
    /// <param name="keep">True for the second.</param>
    /// <param name="target">Receives y; null makes it.</param>
    public (Tensor Y, Tensor? Inverse) Forward(NormTensors tensors, NormForm form, bool keep, Tensor? target = null)
    {
        var p = Inputs(tensors, form);
        var y = target ?? empty_like(tensors.X);
        var inverse = keep ? empty(p.Rows, dtype: ScalarType.Float32, device: tensors.X.device) : null;
        (p.Y, p.Inverse) = (CudaRows.Address(y), CudaRows.Address(inverse));
        runtime.Launch(Program(tensors, p), "root_mean_square", p.Rows * RowThreads(p), p);
        TensorMemory.KeepAlive([tensors.X, tensors.Z, tensors.Weight, y, inverse]);
        return (y, inverse);
    }

    /// <summary>Gradients of x, z and the weight; null without a gate or a weight.</summary>
    public (Tensor X, Tensor? Z, Tensor? Weight) Backward(NormTensors tensors, NormForm form, Tensor inverse, Tensor gradY)
    {
        var p = Inputs(tensors, form);
        p.Parts = Math.Clamp(p.Rows / p.Groups / PartTokens, 1, MostParts);
        var (x, z) = (empty_like(tensors.X), tensors.Z is null ? null : empty_like(tensors.Z));
        var weight = tensors.Weight is null ? null : empty([p.Parts, p.Groups * p.Width], dtype: ScalarType.Float32, device: tensors.X.device);
        (p.Y, p.Inverse, p.XGradient) = (CudaRows.Address(gradY), CudaRows.Address(inverse), CudaRows.Address(x));
        (p.ZGradient, p.WeightGradient) = (CudaRows.Address(z), CudaRows.Address(weight));
        var program = Program(tensors, p);
        runtime.Launch(program, "root_mean_square_gradient", p.Rows * RowThreads(p), p);
        runtime.Launch(program, "root_mean_square_weight_gradient", weight is null ? 0 : p.Parts * p.Groups * p.Width, p);
        TensorMemory.KeepAlive([tensors.X, tensors.Z, tensors.Weight, inverse, gradY, x, z, weight]);
        return (x, z, weight?.sum(dim: 0));
    }

    private static NormArguments Inputs(NormTensors tensors, NormForm form)
    {
        var width = tensors.X.size(-1) / form.Groups;
        return new NormArguments
        {
            X = CudaRows.Address(tensors.X),
            Z = CudaRows.Address(tensors.Z),
            Weight = CudaRows.Address(tensors.Weight),
            Rows = tensors.X.numel() / width,
            Width = width,
            Groups = form.Groups,
            NormBeforeGate = form.Gate == GateOrder.AfterNorm ? 1 : 0,
            RoundNormal = form.RoundNormal ? 1 : 0,
            Epsilon = (float)form.Epsilon,
            WeightShift = (float)form.WeightShift,
        };
    }

    private static long RowThreads(NormArguments p) => p.Width > WidestWarpRow ? BlockThreads : WarpThreads;

    private static CudaProgram Program(NormTensors tensors, NormArguments p) => CudaProgram.Of(
        "root_mean_square.cu", tensors.X.dtype, ("ROW_THREADS", RowThreads(p)), ("NORM_BYTES", sizeof(NormArguments)));
}
