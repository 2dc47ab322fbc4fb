using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// A SIMD kernel beside its reference of plain tensor operations. Where it cannot run on the tensors of a call, the dispatcher logs why not, but for
/// a first tensor that is on CUDA: such a call is none for it, and what the CUDA kernels say is all there is to say.
/// </summary>
/// <param name="Name">Its name in the log.</param>
/// <param name="SelfTest">Compares the two; null where they agree, else how they differ.</param>
internal sealed record CpuKernel(string Name, Func<string?> SelfTest)
{
    /// <summary>True where the kernel can run on the tensors of a call.</summary>
    /// <param name="tensors">All of them under their names; null ones are none, but not the first.</param>
    public bool CanRun(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        !CudaRuntime.Holds(tensors[0].Tensor!) && Agrees(LaneTasks.CanRun(out var reason, tensors), reason);

    /// <summary><see cref="CanRun"/> for a kernel that takes float32 only.</summary>
    /// <param name="tensors">All of them under their names; null ones are none, but not the first.</param>
    public bool CanRunFloat32(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        !CudaRuntime.Holds(tensors[0].Tensor!) && Agrees(LaneTasks.CanRunFloat32(out var reason, tensors), reason);

    /// <summary><see cref="CanRun"/> for a kernel that reads and writes the memory of its tensors as it is: float32, each contiguous.</summary>
    /// <param name="tensors">All of them under their names; null ones are none, but not the first.</param>
    public bool CanRunInPlace(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        if (CudaRuntime.Holds(tensors[0].Tensor!))
        {
            return false;
        }

        var fits = LaneTasks.CanRunFloat32(out var reason, tensors) && LaneTasks.AreContiguous(out reason, tensors);
        return Agrees(fits, reason);
    }

    /// <summary><see cref="CanRunInPlace(ReadOnlySpan{ValueTuple{string, Tensor}})"/> for the memory of a layer, and an input that is float32 in any layout.</summary>
    /// <param name="x">The input.</param>
    /// <param name="memory">Weights and states under their names; null ones are none.</param>
    public bool CanRunInPlace(Tensor x, params ReadOnlySpan<(string Name, Tensor? Tensor)> memory)
    {
        if (CudaRuntime.Holds(x))
        {
            return false;
        }

        var fits = LaneTasks.CanRunFloat32(out var reason, (nameof(x), x)) && LaneTasks.CanRunFloat32(out reason, memory)
            && LaneTasks.AreContiguous(out reason, memory);
        return Agrees(fits, reason);
    }

    private bool Agrees(bool fits, string reason)
    {
        if (fits && KernelDispatcher.Agrees(Name, SelfTest, out reason))
        {
            return true;
        }

        KernelDispatcher.Refused(Name, reason);
        return false;
    }
}
