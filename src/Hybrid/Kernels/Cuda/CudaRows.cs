using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cuda;

/// <summary>The struct Rows of the prelude: a tensor [B, T, E] of which the channels are next to each other; null gives no tensor.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly unsafe struct CudaRows
{
    private readonly nint first;
    private readonly long row;
    private readonly long step;

    public CudaRows(Tensor? rows)
    {
        if (rows is not null)
        {
            var strides = rows.stride();
            first = Address(rows);
            (row, step) = (strides[0], strides[1]);
        }
    }

    /// <summary>True where every step begins at a multiple of some bytes, with elements of so many bytes; true without a tensor.</summary>
    public bool BeginsAtMultiplesOf(long bytes, long elementBytes) => (first | (nint)(row * elementBytes) | (nint)(step * elementBytes)) % (nint)bytes == 0;

    /// <summary>The address of a tensor's first element; 0 without a tensor.</summary>
    public static nint Address(Tensor? tensor) => tensor is null ? 0 : (nint)TensorMemory.Address(tensor);
}
