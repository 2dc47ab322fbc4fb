using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>A SIMD kernel beside its reference of plain tensor operations.</summary>
/// <param name="Name">Its name in the log.</param>
/// <param name="SelfTest">Compares the two; null where they agree, else how they differ.</param>
internal sealed record CpuKernel(string Name, Func<string?> SelfTest)
{
    /// <summary>True where the kernel can run on tensors like <paramref name="x"/>; otherwise the dispatcher logs why not.</summary>
    public bool CanRun(Tensor x)
    {
        if (LaneTasks.CanRun(x, out var reason) && KernelDispatcher.Agrees(Name, SelfTest, out reason))
        {
            return true;
        }

        KernelDispatcher.Refused(Name, reason);
        return false;
    }
}
