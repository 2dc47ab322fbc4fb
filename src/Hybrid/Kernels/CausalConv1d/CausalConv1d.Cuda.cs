namespace Hybrid.Kernels;

public static partial class CausalConv1d
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<ConvOnCuda> OnCuda { get; } = new("CausalConv1d.Cuda", runtime => new(runtime), SelfTestOf);
}
