using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>A SIMD kernel beside its reference of plain tensor operations.</summary>
/// <param name="Name">Its name in the log.</param>
/// <param name="SelfTest">Compares the two; null where they agree, else how they differ.</param>
internal sealed record CpuKernel(string Name, Func<string?> SelfTest)
{
    /// <summary>True where the kernel can run on the tensors of a call; otherwise the dispatcher logs why not.</summary>
    /// <param name="tensors">All of them under their names; null ones are none.</param>
    public bool CanRun(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        if (LaneTasks.CanRun(out var reason, tensors) && KernelDispatcher.Agrees(Name, SelfTest, out reason))
        {
            return true;
        }

        KernelDispatcher.Refused(Name, reason);
        return false;
    }
}
