namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<DeltaOnCuda> OnCuda { get; } = new("GatedDelta.Cuda", runtime => new(runtime), SelfTestOf);
}
