using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>The name of the SIMD kernel in logs.</summary>
    internal const string CpuKernel = "GatedDelta.Cpu";

    /// <summary>True where the SIMD kernel can run on the tensors of a call; otherwise <paramref name="reason"/> says why not.</summary>
    internal static bool CanRunOnCpu(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        LaneTasks.CanRun(out reason, tensors) && KernelDispatcher.Agrees(CpuKernel, () => SelfTestOf(DeltaOnCpu.Instance, CPU), out reason);
}
