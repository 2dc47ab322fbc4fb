namespace Hybrid.Kernels;

public static partial class SelectiveScan
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<ScanOnCuda> OnCuda { get; } = new("SelectiveScan.Cuda", runtime => new(runtime), SelfTestOf);
}
