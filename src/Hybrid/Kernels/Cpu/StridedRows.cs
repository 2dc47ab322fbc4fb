using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>A tensor [..., width] as rows at equal distances, such as a slice of a wider tensor that a layer cut in parts.</summary>
internal static class StridedRows
{
    /// <summary>Null where a tensor is such rows with their elements next to each other; else a contiguous copy, which the caller frees.</summary>
    public static Tensor? CopyUnlessRows(Tensor? tensor) =>
        tensor is null || tensor.is_contiguous() || Distance(tensor.shape, tensor.stride()) is not null ? null : tensor.contiguous();

    /// <summary>Elements from one row of such a tensor to the next.</summary>
    public static long Stride(Tensor tensor) => tensor.is_contiguous() ? tensor.size(-1) : Distance(tensor.shape, tensor.stride())!.Value;

    /// <summary>The distance of the rows, or null where they are at several or their elements are apart.</summary>
    private static long? Distance(long[] shape, long[] strides)
    {
        var last = shape.Length - 1;
        if (shape[last] != 1 && strides[last] != 1)
        {
            return null;
        }

        // Rows before a dimension, and how far apart the next ones outside of it have to be.
        long? distance = null;
        var expected = 0L;
        for (var dimension = last - 1; dimension >= 0; dimension--)
        {
            if (shape[dimension] == 1)
            {
                continue;
            }

            if (distance is not null && strides[dimension] != expected)
            {
                return null;
            }

            distance ??= strides[dimension];
            expected = strides[dimension] * shape[dimension];
        }

        return distance ?? shape[last];
    }
}
