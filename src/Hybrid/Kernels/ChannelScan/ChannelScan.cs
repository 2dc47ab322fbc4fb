using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Runs recurrences whose channels never meet (linear recurrences, RG-LRU, WKV) as one SIMD pass over time, in float32 whatever the inputs
/// are. Backward, states are computed again chunk by chunk.
/// </summary>
internal static class ChannelScan
{
    /// <summary>Runs a recurrence over time.</summary>
    /// <param name="cell">A step of it.</param>
    /// <param name="inputs">Each [B, T, E], or [B, T, nE], which is n inputs; null ones are none, but not the first.</param>
    /// <param name="constants">Each [E].</param>
    /// <param name="initial">The states before the first step, each [B, E]; empty for fresh ones.</param>
    /// <param name="mask">Bool [B, T], false at padding, or null.</param>
    /// <param name="restart">Bool [B, T], true at first tokens, or null.</param>
    /// <param name="reference">The same from plain tensor operations: y and final states, for derivatives of gradients.</param>
    /// <param name="differentiableStates">The first so many final states are outputs to autograd; the others are constants to it.</param>
    /// <returns>y [B, T, E] in the dtype of the first input, and the states after the last step, each [B, E].</returns>
    public static (Tensor Y, Tensor[] Final) Run<TCell>(
        TCell cell, Tensor?[] inputs, Tensor[] constants, Tensor[] initial, Tensor? mask, Tensor? restart,
        Func<ChannelScanTensors, Tensor[]> reference, int differentiableStates)
        where TCell : unmanaged, IChannelCell
    {
        var dtype = inputs[0]!.dtype;
        var channels = constants.Length > 0 ? constants[0].size(0) : inputs[0]!.size(2);
        var x = new ChannelScanTensors(
            [.. inputs.Select(input => input is null ? null : RowView.Of(input.to_type(ScalarType.Float32)))], [.. constants.Select(Whole)],
            [.. initial.Select(Whole)], Flags(mask), Flags(restart), (int)channels);
        var sizes = new ChannelScanSizes(x, TCell.States);
        var (y, final) = RecordedKernel.Run(new Scan<TCell>(cell, x.Layout, sizes, reference), x.All, differentiableStates);
        return (y.to_type(dtype), final);

        static Tensor Whole(Tensor tensor) => tensor.to_type(ScalarType.Float32).contiguous();

        static Tensor? Flags(Tensor? flags) => flags?.to_type(ScalarType.Bool).contiguous();
    }

    /// <summary>Runs a recurrence of float32 tensors in place on its states, while autograd does not record: for decoding.</summary>
    /// <param name="cell">A step of it.</param>
    /// <param name="inputs">Each [B, T, E], or [B, T, nE], which is n inputs; null ones are none, but not the first.</param>
    /// <param name="constants">Each [E], contiguous.</param>
    /// <param name="states">The states before the first step, which become those after the last, each [B, E], contiguous.</param>
    /// <param name="channels">E.</param>
    /// <returns>y [B, T, E], in the current dispose scope.</returns>
    public static Tensor InPlace<TCell>(TCell cell, Tensor?[] inputs, Tensor[] constants, Tensor[] states, int channels)
        where TCell : unmanaged, IChannelCell
    {
        var x = new ChannelScanTensors(inputs, constants, states, null, null, channels);
        return Forward(cell, x, new ChannelScanSizes(x, TCell.States), states, null);
    }

    /// <summary>Fills <paramref name="final"/> and, where it is there, <paramref name="boundaries"/>; returns y.</summary>
    private static Tensor Forward<TCell>(TCell cell, ChannelScanTensors x, ChannelScanSizes sizes, Tensor[] final, Tensor? boundaries)
        where TCell : unmanaged, IChannelCell
    {
        var y = Uninitialised(sizes.Batch, sizes.Time, sizes.Channels);
        var work = new ForwardWork<TCell>(cell, new ChannelScanInputs(x, sizes), new ChannelScanResults(y, final, boundaries));
        LaneTasks.Run(work, sizes.Batch * sizes.Groups, sizes.Elements);
        TensorMemory.KeepAlive([.. x.All, .. final, boundaries, y]);
        return y;
    }

    /// <summary>Gradients in the order of <see cref="ChannelScanTensors.All"/>, null where there is no such tensor.</summary>
    private static Tensor?[] Backward<TCell>(
        TCell cell, ChannelScanTensors x, ChannelScanSizes sizes, Tensor boundaries, Tensor? gradY, Tensor[] gradFinal)
        where TCell : unmanaged, IChannelCell
    {
        var inputs = x.Inputs.Select(input => input is null ? null : Uninitialised(input.shape)).ToArray();

        // Each row writes a part of its own, added up afterwards in a fixed order.
        var constants = x.Constants.Select(_ => Uninitialised(sizes.Batch, sizes.Channels)).ToArray();
        var initial = x.Initial.Select(_ => Uninitialised(sizes.Batch, sizes.Channels)).ToArray();
        var gradients = new ChannelScanGradients(gradY, gradFinal, boundaries, RowViews.Of(inputs, sizes.Channels), constants, initial);
        LaneTasks.Run(new BackwardWork<TCell>(cell, new ChannelScanInputs(x, sizes), gradients), sizes.Batch * sizes.Groups, sizes.Elements);
        TensorMemory.KeepAlive([.. x.All, boundaries, gradY, .. gradFinal, .. inputs, .. constants, .. initial]);
        return [.. inputs, .. constants.Select(part => part.sum(dim: 0)), .. initial, null, null];
    }

    private static Tensor Uninitialised(params long[] shape) => empty(shape, dtype: ScalarType.Float32);

    private readonly struct ForwardWork<TCell>(TCell cell, ChannelScanInputs p, ChannelScanResults results) : ILaneWork
        where TCell : unmanaged, IChannelCell
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane> =>
            ChannelScanKernel<TLane, TCell>.Forward(cell, p, results, task / p.Sizes.Groups, task % p.Sizes.Groups);
    }

    private readonly struct BackwardWork<TCell>(TCell cell, ChannelScanInputs p, ChannelScanGradients gradients) : ILaneWork
        where TCell : unmanaged, IChannelCell
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane> =>
            ChannelScanKernel<TLane, TCell>.Backward(cell, p, gradients, task / p.Sizes.Groups, task % p.Sizes.Groups);
    }

    /// <summary>
    /// A scan with a backward pass that keeps the inputs, in the order of <see cref="ChannelScanTensors"/>, and the states at chunk
    /// boundaries. The sizes are kept, as the number of threads may have changed.
    /// </summary>
    private sealed record Scan<TCell>(TCell Cell, ChannelScanLayout Layout, ChannelScanSizes Sizes, Func<ChannelScanTensors, Tensor[]> Composed)
        : IRecordedKernel
        where TCell : unmanaged, IChannelCell
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var boundaries = keep ? Uninitialised(Sizes.BoundaryCount) : null;
            var final = Enumerable.Range(0, TCell.States).Select(_ => Uninitialised(Sizes.Batch, Sizes.Channels)).ToArray();
            return (ChannelScan.Forward(Cell, ChannelScanTensors.From(inputs, Layout), Sizes, final, boundaries), final, boundaries);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var none = gradFinal.All(gradient => gradient is null);
            return ChannelScan.Backward(
                Cell, ChannelScanTensors.From(inputs, Layout), Sizes, kept!, gradY is null ? null : RowView.Of(gradY),
                none ? [] : [.. gradFinal.Select(gradient => gradient?.contiguous() ?? zeros(Sizes.Batch, Sizes.Channels))]);
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs) => Composed(ChannelScanTensors.From(inputs, Layout));
    }
}
