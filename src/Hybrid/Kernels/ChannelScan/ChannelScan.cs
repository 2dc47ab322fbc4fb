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
        var final = Enumerable.Range(0, TCell.States).Select(_ => Uninitialised(sizes.Batch, sizes.Channels)).ToArray();
        if (!is_grad_enabled() || !x.All.Any(tensor => tensor?.requires_grad == true))
        {
            return (Forward(cell, x, sizes, final, null).to_type(dtype), final);
        }

        var results = Recorded<TCell>.apply(
            [new Call<TCell>(cell, x, sizes, final, reference, differentiableStates), .. x.All.Where(tensor => tensor is not null).Cast<object>()]);
        return (results[0].to_type(dtype), [.. results.Skip(1), .. final.Skip(differentiableStates)]);

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

    /// <summary>What a recorded scan gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record Call<TCell>(
        TCell Cell, ChannelScanTensors Tensors, ChannelScanSizes Sizes, Tensor[] Final, Func<ChannelScanTensors, Tensor[]> Reference, int DifferentiableStates);

    /// <summary>What the backward pass needs besides the saved tensors. The sizes are kept, as the number of threads may have changed.</summary>
    private sealed record Kept<TCell>(TCell Cell, ChannelScanLayout Layout, ChannelScanSizes Sizes, Func<ChannelScanTensors, Tensor[]> Reference);

    /// <summary>
    /// A scan with a backward pass that keeps the inputs and the states at chunk boundaries. A final state is an output only where it can
    /// receive a gradient: TorchSharp never takes an output without gradient out of its count of tensors.
    /// </summary>
    private sealed class Recorded<TCell> : autograd.MultiTensorFunction<Recorded<TCell>>
        where TCell : unmanaged, IChannelCell
    {
        private const string Key = "scan";

        public override string Name => typeof(TCell).Name;

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (Call<TCell>)vars[0];
            var boundaries = Uninitialised(call.Sizes.BoundaryCount);
            var y = Forward(call.Cell, call.Tensors, call.Sizes, call.Final, boundaries);
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>(), boundaries]);
            ctx.save_data(Key, new Kept<TCell>(call.Cell, call.Tensors.Layout, call.Sizes, call.Reference));

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            return [y, .. call.Final.Take(call.DifferentiableStates)];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var kept = (Kept<TCell>)ctx.get_data(Key);
            var saved = ctx.get_saved_variables();
            var x = ChannelScanTensors.From(saved, kept.Layout);
            var gradients = RecordedGradient.IsWanted
                ? RecordedGradient.Of(all => kept.Reference(x.With(all)), x.All, grad_outputs)
                : Gradients(kept, x, saved[^1], grad_outputs);
            return [null!, .. gradients.Where((_, i) => kept.Layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }

        private static Tensor?[] Gradients(Kept<TCell> kept, ChannelScanTensors x, Tensor boundaries, List<Tensor> grad_outputs)
        {
            var gradY = grad_outputs[0].IsInvalid ? null : RowView.Of(grad_outputs[0]);
            var gradFinal = grad_outputs.Skip(1).Select(gradient => gradient.IsInvalid ? null : gradient.contiguous()).ToArray();
            var none = gradFinal.All(gradient => gradient is null);
            return Backward(
                kept.Cell, x, kept.Sizes, boundaries, gradY,
                none ? [] : [.. gradFinal.Select(gradient => gradient ?? zeros(kept.Sizes.Batch, kept.Sizes.Channels))]);
        }
    }
}
