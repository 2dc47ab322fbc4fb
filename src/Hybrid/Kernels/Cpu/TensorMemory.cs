using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>The memory of a contiguous CPU tensor, of any dtype and size.</summary>
internal static unsafe class TensorMemory
{
    [ThreadStatic]
    private static Raw? raw;

    /// <summary>Address of the first element. It is valid while the tensor lives: keep it alive over the last use.</summary>
    public static byte* Address(Tensor tensor) => (byte*)(raw ??= new Raw()).Of(tensor) + (tensor.storage_offset() * tensor.element_size());

    /// <summary>Null where a tensor is contiguous, so that its own memory will do; else a contiguous copy, which the caller frees.</summary>
    public static Tensor? CopyUnlessContiguous(Tensor? tensor) => tensor is null || tensor.is_contiguous() ? null : tensor.contiguous();

    /// <summary>Keeps tensors alive up to here, after the last use of their memory.</summary>
    public static void KeepAlive(Tensor?[] tensors)
    {
        foreach (var tensor in tensors)
        {
            GC.KeepAlive(tensor);
        }
    }

    /// <summary>The elements of a contiguous float32 CPU tensor. They are valid while it lives: keep it in a dispose scope over the last use.</summary>
    public static ReadOnlySpan<float> Floats(Tensor tensor) => new(Address(tensor), checked((int)tensor.numel()));

    // The typed storages that TorchSharp offers convert, and thereby copy, half of the dtypes; the untyped base does not.
    // One a thread serves all tensors: decoding asks for a hundred addresses a token.
    private sealed class Raw : Storage
    {
        public nint Of(Tensor tensor)
        {
            (_tensor, _tensor_data_ptr) = (tensor, 0);
            var address = data_ptr();
            (_tensor, _tensor_data_ptr) = (null!, 0);
            return address;
        }

        public override int element_size() => (int)_tensor.element_size();
    }
}
