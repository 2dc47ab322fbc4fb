using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>Runs the kernel of state-space duality: what heads share for each chunk, then each head of each batch row.</summary>
internal static class DualityOnCpu
{
    /// <summary>Fills <paramref name="final"/>.</summary>
    /// <returns>y [B, T, H, P].</returns>
    public static Tensor Forward(DualityTensors x, Tensor final)
    {
        var sizes = new DualitySizes(x);
        var p = new DualityInputs(x, sizes);
        var y = Uninitialised([sizes.Batch, sizes.Time, sizes.Heads, sizes.HeadWidth]);
        using var scores = Uninitialised(Shared(sizes, DualitySizes.ChunkSteps));
        var shared = new DualityShared(scores, null, null, sizes);
        Run(new ShareWork(p, shared), sizes.Batch * sizes.Groups * sizes.Chunks, sizes);
        Run(new ForwardWork(p, shared, new DualityResults(y, final)), sizes.Batch * sizes.Heads, sizes);
        TensorMemory.KeepAlive([.. x.All, final, scores]);
        return y;
    }

    /// <summary>Gradients in the order of <see cref="DualityTensors"/>, null where there is no such input.</summary>
    public static Tensor?[] Backward(DualityTensors x, Tensor gradY, Tensor? gradFinal)
    {
        var sizes = new DualitySizes(x);
        var p = new DualityInputs(x, sizes);
        var (batch, heads, width, n) = (sizes.Batch, sizes.Heads, sizes.HeadWidth, sizes.StateSize);
        using var scores = Uninitialised(Shared(sizes, DualitySizes.ChunkSteps));
        using var timeLastB = Uninitialised(Shared(sizes, n));
        using var timeLastC = Uninitialised(Shared(sizes, n));
        var shared = new DualityShared(scores, timeLastB, timeLastC, sizes);

        // Each head writes a part of its own, added up afterwards in a fixed order.
        long[] sequence = [batch, sizes.Time, heads, width], matrix = [batch, heads, sizes.Chunks, n, DualitySizes.ChunkSteps];
        Tensor?[] parts =
        [
            Uninitialised(sequence), Uninitialised(sequence[..3]), Uninitialised([batch, heads]), Uninitialised(matrix), Uninitialised(matrix),
            x.D is null ? null : Uninitialised([batch, heads, width]), x.Z is null ? null : Uninitialised(sequence),
            x.Bias is null ? null : Uninitialised([batch, heads]), x.Initial is null ? null : Uninitialised([batch, heads, width, n]),
        ];
        Run(new ShareWork(p, shared), batch * sizes.Groups * sizes.Chunks, sizes);
        Run(new BackwardWork(p, shared, new DualityGradients(gradY, gradFinal, parts)), batch * heads, sizes);
        TensorMemory.KeepAlive([.. x.All, gradY, gradFinal, scores, timeLastB, timeLastC, .. parts]);

        var skip = parts[5]?.sum(dim: 0);
        return
        [
            parts[0], parts[1], parts[2]!.sum(dim: 0), Joined(parts[3]!, sizes), Joined(parts[4]!, sizes), x.D is { Dimensions: 1 } ? skip!.sum(dim: 1) : skip,
            parts[6], parts[7]?.sum(dim: 0), parts[8], null, null,
        ];
    }

    /// <summary>The gradient of B or C [B, T, G, N] from the parts of the heads [B, H, chunks, N, L].</summary>
    private static Tensor Joined(Tensor parts, DualitySizes sizes)
    {
        var shape = parts.shape;
        using var sum = parts.view([shape[0], sizes.Groups, sizes.HeadsOfGroup, .. shape[2..]]).sum(dim: 2);
        return sum.permute(0, 2, 4, 1, 3).reshape(shape[0], -1, sizes.Groups, shape[3]).narrow(1, 0, sizes.Time);
    }

    private static long[] Shared(DualitySizes sizes, long rows) => [sizes.Batch, sizes.Groups, sizes.Chunks, rows, DualitySizes.ChunkSteps];

    private static Tensor Uninitialised(long[] shape) => empty(shape, dtype: ScalarType.Float32);

    private static void Run<TWork>(TWork work, int tasks, DualitySizes sizes)
        where TWork : unmanaged, ILaneWork => LaneTasks.Run(work, tasks, sizes.Elements);

    private readonly struct ShareWork(DualityInputs p, DualityShared shared) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var (place, chunk) = (task / p.Sizes.Chunks, task % p.Sizes.Chunks);
            DualityKernel<TLane>.Share(p, shared, place / p.Sizes.Groups, place % p.Sizes.Groups, chunk);
        }
    }

    private readonly struct ForwardWork(DualityInputs p, DualityShared shared, DualityResults results) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane> => DualityKernel<TLane>.Forward(p, shared, results, task / p.Sizes.Heads, task % p.Sizes.Heads);
    }

    private readonly struct BackwardWork(DualityInputs p, DualityShared shared, DualityGradients gradients) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane> => DualityKernel<TLane>.Backward(p, shared, gradients, task / p.Sizes.Heads, task % p.Sizes.Heads);
    }
}
