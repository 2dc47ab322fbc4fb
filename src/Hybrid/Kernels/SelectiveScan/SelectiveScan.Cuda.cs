using Hybrid.Kernels.Cuda;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class SelectiveScan
{
    /// <summary>The name of the CUDA kernels in logs and metrics.</summary>
    internal const string CudaKernel = "SelectiveScan.Cuda";

    /// <summary>True where the CUDA kernels can run on the tensors of a call; otherwise <paramref name="reason"/> says why not.</summary>
    internal static bool CanRunOnCuda(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        CudaRuntime.TryGet(out var runtime, out reason, tensors)
        && KernelDispatcher.Agrees($"{CudaKernel} {runtime.Device}", () => SelfTestOf(new ScanOnCuda(runtime), runtime.TorchDevice), out reason);
}
