namespace Hybrid.Kernels.Cuda;

/// <summary>NVRTC or the CUDA driver refused something.</summary>
internal sealed class CudaException(string message) : Exception(message);
