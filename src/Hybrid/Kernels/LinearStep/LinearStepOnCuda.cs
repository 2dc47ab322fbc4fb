using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct LinearArguments of linear_step.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct LinearStepArguments
{
    public nint X;
    public nint Weight;
    public nint Bias;
    public nint Residual;
    public nint Y;
    public long Width;
    public long Outputs;
}

/// <summary>Runs the kernel of linear_step.cu.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class LinearStepOnCuda(CudaRuntime runtime)
{
    private const int WarpThreads = 32;
    private const int PackBytes = 16;

    /// <summary>The kernel. Tensors of a call have one dtype.</summary>
    public static CudaKernel<LinearStepOnCuda> OnCuda { get; } = new(
        "LinearStep.Cuda", runtime => new(runtime), (_, device) => LinearStep.Compare(device));

    /// <summary>Runs a layer.</summary>
    /// <param name="x">[..., K].</param>
    /// <param name="weight">W [O, K], contiguous, of the same device and dtype.</param>
    /// <param name="bias">b [O], or null.</param>
    /// <param name="residual">Added to the result [..., O], contiguous; or null.</param>
    /// <param name="y">Receives the result [..., O].</param>
    /// <param name="rows">Rows of x.</param>
    /// <returns><paramref name="y"/>.</returns>
    public Tensor Run(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor y, int rows)
    {
        using var inputCopy = TensorMemory.CopyUnlessContiguous(x);
        using var biasCopy = TensorMemory.CopyUnlessContiguous(bias);
        var (input, offset) = (inputCopy ?? x, biasCopy ?? bias);
        var p = new LinearStepArguments
        {
            X = CudaRows.Address(input),
            Weight = CudaRows.Address(weight),
            Bias = CudaRows.Address(offset),
            Residual = CudaRows.Address(residual),
            Y = CudaRows.Address(y),
            Width = weight.size(1),
            Outputs = weight.size(0),
        };
        var inPacks = p.Width * weight.element_size() % PackBytes == 0 && (p.X | p.Weight) % PackBytes == 0;
        var program = CudaProgram.Of("linear_step.cu", x.dtype, ("ROWS", rows), ("PACKS", inPacks ? 1 : 0), ("LINEAR_BYTES", sizeof(LinearStepArguments)));
        runtime.Launch(program, "linear_step", p.Outputs * WarpThreads, p);
        GC.KeepAlive(input);
        GC.KeepAlive(weight);
        GC.KeepAlive(offset);
        GC.KeepAlive(residual);
        GC.KeepAlive(y);
        return y;
    }
}
