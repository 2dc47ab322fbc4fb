using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cuda;

/// <summary>A tensor of four dimensions in any layout, such as heads [B, T, H, W] or states [B, H, K, V]; null gives no tensor.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct CudaStrided
{
    private readonly nint first;
    private readonly long stride0;
    private readonly long stride1;
    private readonly long stride2;
    private readonly long stride3;

    public CudaStrided(Tensor? tensor)
    {
        if (tensor is not null)
        {
            var strides = tensor.stride();
            first = CudaRows.Address(tensor);
            (stride0, stride1, stride2, stride3) = (strides[0], strides[1], strides[2], strides[3]);
        }
    }
}
