using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Runs the recurrence over groups of channels in parallel. The cut into groups does not depend on the number of threads, and every sum
/// has a fixed order, so results are the same bit for bit on any number of them.
/// </summary>
internal static unsafe class ScanOnCpu
{
    public static void Forward(ScanSizes sizes, Tensor[] inputs, Tensor y, Tensor final, Tensor boundaries)
    {
        var pointers = new ScanPointers(inputs, y, final, boundaries);
        if (Vector512.IsHardwareAccelerated)
        {
            Each(sizes, (row, group) => ScanKernel<Lane512>.Forward(sizes, pointers, row, group));
        }
        else if (Vector256.IsHardwareAccelerated)
        {
            Each(sizes, (row, group) => ScanKernel<Lane256>.Forward(sizes, pointers, row, group));
        }
        else
        {
            Each(sizes, (row, group) => ScanKernel<Lane128>.Forward(sizes, pointers, row, group));
        }

        KeepAlive([.. inputs, y, final, boundaries]);
    }

    /// <summary>Gradients of u, step, A, B, C and the initial state.</summary>
    public static Tensor[] Backward(ScanSizes sizes, Tensor[] inputs, Tensor boundaries, Tensor gradY, Tensor gradFinal)
    {
        // A sums over rows, B and C over channel groups: each task writes its own part, added up afterwards in a fixed order.
        Tensor[] parts =
        [
            empty_like(inputs[0]), empty_like(inputs[1]), empty([sizes.Batch, sizes.Channels, sizes.StateSize]),
            empty([sizes.Groups, sizes.Batch, sizes.Time, sizes.StateSize]), empty([sizes.Groups, sizes.Batch, sizes.Time, sizes.StateSize]),
            empty_like(inputs[5]),
        ];
        var pointers = new ScanPointers(inputs, gradY, gradFinal, boundaries);
        var gradients = new ScanGradients(parts);
        if (Vector512.IsHardwareAccelerated)
        {
            Each(sizes, (row, group) => ScanKernel<Lane512>.Backward(sizes, pointers, gradients, row, group));
        }
        else if (Vector256.IsHardwareAccelerated)
        {
            Each(sizes, (row, group) => ScanKernel<Lane256>.Backward(sizes, pointers, gradients, row, group));
        }
        else
        {
            Each(sizes, (row, group) => ScanKernel<Lane128>.Backward(sizes, pointers, gradients, row, group));
        }

        KeepAlive([.. inputs, boundaries, gradY, gradFinal, .. parts]);
        return [parts[0], parts[1], parts[2].sum(dim: 0), parts[3].sum(dim: 0), parts[4].sum(dim: 0), parts[5]];
    }

    private static void Each(ScanSizes sizes, Action<int, int> work)
    {
        var count = sizes.Batch * sizes.Groups;
        var threads = Math.Min(get_num_threads(), count);
        if (threads == 1)
        {
            for (var i = 0; i < count; i++)
            {
                work(i / sizes.Groups, i % sizes.Groups);
            }

            return;
        }

        Parallel.For(0, count, new ParallelOptions { MaxDegreeOfParallelism = threads }, i => work(i / sizes.Groups, i % sizes.Groups));
    }

    private static void KeepAlive(Tensor[] tensors)
    {
        foreach (var tensor in tensors)
        {
            GC.KeepAlive(tensor);
        }
    }
}

/// <summary>Addresses of the inputs, all contiguous float32 on CPU, and of what goes with the outputs: results, or their gradients.</summary>
internal readonly unsafe struct ScanPointers(Tensor[] inputs, Tensor y, Tensor final, Tensor boundaries)
{
    public readonly float* Input = Address(inputs[0]);
    public readonly float* Step = Address(inputs[1]);
    public readonly float* Decay = Address(inputs[2]);
    public readonly float* InMatrix = Address(inputs[3]);
    public readonly float* OutMatrix = Address(inputs[4]);
    public readonly float* Initial = Address(inputs[5]);
    public readonly float* Y = Address(y);
    public readonly float* Final = Address(final);
    public readonly float* Boundaries = Address(boundaries);

    public static float* Address(Tensor tensor) => (float*)TensorMemory.Address(tensor);
}

/// <summary>Addresses of the gradients, in the order of the inputs.</summary>
internal readonly unsafe struct ScanGradients(Tensor[] parts)
{
    public readonly float* Input = ScanPointers.Address(parts[0]);
    public readonly float* Step = ScanPointers.Address(parts[1]);
    public readonly float* Decay = ScanPointers.Address(parts[2]);
    public readonly float* InMatrix = ScanPointers.Address(parts[3]);
    public readonly float* OutMatrix = ScanPointers.Address(parts[4]);
    public readonly float* Initial = ScanPointers.Address(parts[5]);
}
