using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class LinearRecurrence
{
    /// <summary>
    /// The recurrence from plain tensor operations, on any device, differentiable by autograd. Time is cut into about sqrt(T) chunks of
    /// about sqrt(T) steps: all chunks run their steps side by side from a zero state, then the states between chunks are chained,
    /// then every step receives what its chunk was handed. Work is O(T), depth O(sqrt T); only products of decays occur, each at
    /// most 1, so nothing can overflow that the recurrence itself does not.
    /// </summary>
    internal static (Tensor Y, Tensor FinalState) Reference(
        Tensor x, Tensor logDecay, Tensor? initialState, Tensor? mask, Tensor? restart)
    {
        var dtype = x.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var shape = x.shape;
        var (batch, time, channels) = (shape[0], shape[1], shape[2]);
        var (input, decay) = Steps(x.to_type(dtype), logDecay.to_type(dtype), mask, restart);

        var length = Math.Max(1, (long)Math.Ceiling(Math.Sqrt(time)));
        var count = (time + length - 1) / length;
        var (local, passed) = ChunkedScan.InsideChunks(                                  // both length x [B * count, E]
            Split(input, batch, length, count, padding: 0), Split(decay, batch, length, count, padding: 1));

        var state = initialState?.to_type(dtype) ?? zeros([batch, channels], dtype: dtype, device: x.device);
        var (entering, finalState) = ChunkedScan.Chain(local[^1].view(batch, count, channels), passed[^1].view(batch, count, channels), state);

        var states = stack(local).addcmul(stack(passed), entering.view(1, batch * count, channels), 1);
        var y = states.transpose(0, 1).reshape(batch, count * length, channels).narrow(1, 0, time);
        return (y.to_type(x.dtype), finalState);
    }

    /// <summary>Inputs and decays: padding adds 0 and keeps all, a restart keeps nothing.</summary>
    private static (Tensor Input, Tensor Decay) Steps(Tensor input, Tensor logDecay, Tensor? mask, Tensor? restart)
    {
        if (mask is not null)
        {
            var padding = mask.logical_not().unsqueeze(-1);
            (input, logDecay) = (input.masked_fill(padding, 0), logDecay.masked_fill(padding, 0));
        }

        var decay = logDecay.exp();
        return (input, restart is null ? decay : decay.masked_fill(restart.unsqueeze(-1), 0));
    }

    /// <summary>[B, T, E] to one [B * count, E] for each step of a chunk.</summary>
    private static Tensor[] Split(Tensor x, long batch, long length, long count, double padding)
    {
        var (time, channels) = (x.size(1), x.size(2));
        if (time < length * count)
        {
            x = cat([x, full([batch, (length * count) - time, channels], padding, dtype: x.dtype, device: x.device)], 1);
        }

        // unbind, not indexing: the gradient of a slice is a tensor of the full size, that of unbind is one stack.
        return x.reshape(batch * count, length, channels).transpose(0, 1).contiguous().unbind(0);
    }
}
