using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>The SIMD kernel.</summary>
    internal static CpuKernel Simd { get; } = new("GatedDelta.Cpu", () => SelfTestOf(DeltaOnCpu.Instance, CPU));
}
