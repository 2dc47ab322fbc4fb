using Hybrid.Kernels.Cuda;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>The name of the CUDA kernels in logs.</summary>
    internal const string CudaKernel = "GatedDelta.Cuda";

    /// <summary>True where the CUDA kernels can run on the tensors of a call; otherwise <paramref name="reason"/> says why not.</summary>
    /// <param name="keyWidth">K.</param>
    /// <param name="reason">Why not; empty where they can.</param>
    /// <param name="tensors">All tensors of the call under their names; null ones are none.</param>
    internal static bool CanRunOnCuda(long keyWidth, out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        DeltaOnCuda.CanRun(("K", keyWidth), out var runtime, out reason, tensors)
        && KernelDispatcher.Agrees($"{CudaKernel} {runtime.Device}", () => SelfTestOf(new DeltaOnCuda(runtime), runtime.TorchDevice), out reason);
}
