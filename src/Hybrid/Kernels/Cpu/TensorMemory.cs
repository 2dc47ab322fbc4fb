using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>The memory of a contiguous CPU tensor, of any dtype and size.</summary>
internal static unsafe class TensorMemory
{
    /// <summary>Address of the first element. It is valid while the tensor lives: keep it alive over the last use.</summary>
    public static byte* Address(Tensor tensor) => (byte*)new Raw(tensor).data_ptr() + (tensor.storage_offset() * tensor.element_size());

    /// <summary>Keeps tensors alive up to here, after the last use of their memory.</summary>
    public static void KeepAlive(Tensor?[] tensors)
    {
        foreach (var tensor in tensors)
        {
            GC.KeepAlive(tensor);
        }
    }

    // The typed storages that TorchSharp offers convert, and thereby copy, half of the dtypes; the untyped base does not.
    private sealed class Raw(Tensor tensor) : Storage(tensor)
    {
        public override int element_size() => (int)_tensor.element_size();
    }
}
