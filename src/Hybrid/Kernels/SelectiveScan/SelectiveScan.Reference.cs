using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class SelectiveScan
{
    /// <summary>
    /// The scan from plain tensor operations, on any device, differentiable by autograd. Time is cut into about sqrt(T) chunks of
    /// about sqrt(T) steps: all chunks run their steps side by side from a zero state, then the states between chunks are chained,
    /// then every step receives what its chunk was handed. Work is O(T), depth O(sqrt T); only products of decays occur, each at
    /// most 1, so no step size can overflow. <paramref name="linear"/>: all of time is one chunk, one step after the other.
    /// </summary>
    internal static (Tensor Y, Tensor FinalState) Reference(
        Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? deltaBias, ScanSteps steps, Tensor? initialState, Tensor? mask, Tensor? restart,
        bool linear = false)
    {
        var dtype = u.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var shape = u.shape;
        var (batch, time, channels, stateSize) = (shape[0], shape[1], shape[2], A.shape[1]);
        var input = u.to_type(dtype);
        var chunks = new TimeChunks(batch, time, linear ? time : (long)Math.Ceiling(Math.Sqrt(time)));

        var step = StepSizes(delta.to_type(dtype), deltaBias?.to_type(dtype), steps, mask);
        var chunked = chunks.Split(step);                                                 // [L, G, E], L steps of G = B * chunks rows
        var decay = (chunked.unsqueeze(-1) * A.to_type(dtype)).exp();                      // [L, G, E, N]
        if (restart is not null)
        {
            decay = decay * chunks.Split(restart.unsqueeze(-1)).logical_not().to_type(dtype).unsqueeze(-1);
        }

        var driven = chunks.Split(step * input).unsqueeze(-1) * PerChannel(B.to_type(dtype), chunks, channels);

        var (local, passed) = ChunkedScan.InsideChunks(driven.unbind(0), decay.unbind(0)); // both L x [G, E, N]
        var (entering, finalState) = ChainChunks(
            local[^1].view(batch, chunks.Count, channels, stateSize),
            passed[^1].view(batch, chunks.Count, channels, stateSize),
            initialState?.to_type(dtype),
            skipZeros: time > 1);

        var states = stack(local);
        if (entering is not null)
        {
            states = states.addcmul(stack(passed), entering.view(batch * chunks.Count, channels, stateSize).unsqueeze(0), 1);
        }

        var y = chunks.Join(ReadOut(states, PerChannel(C.to_type(dtype), chunks, channels)));   // [B, T, E]
        if (D is not null)
        {
            y = y + input * D.to_type(dtype);
        }

        if (z is not null)
        {
            y = y * z.to_type(dtype).silu();
        }

        return (y.to_type(u.dtype), finalState);
    }

    /// <summary>softplus(delta + bias) within its limits, zero at padding: a step of zero keeps the state and adds nothing.</summary>
    private static Tensor StepSizes(Tensor delta, Tensor? bias, ScanSteps steps, Tensor? mask)
    {
        var step = bias is null ? delta : delta + bias;
        if (steps.Softplus)
        {
            step = step.softplus();
        }

        step = steps.Min is { } min ? step.clamp_min(min) : step;
        step = steps.Max is { } max ? step.clamp_max(max) : step;

        return mask is null ? step : step.masked_fill(mask.logical_not().unsqueeze(-1), 0);
    }

    /// <summary>B or C in the layout of the chunks: [L or 1, G or 1, E or 1, N].</summary>
    private static Tensor PerChannel(Tensor matrix, TimeChunks chunks, long channels)
    {
        switch (matrix.Dimensions)
        {
            case 2:
                return matrix.unsqueeze(0).unsqueeze(0);
            case 3:
                return chunks.Split(matrix).unsqueeze(2);
            default:
                var groups = matrix.size(2);
                return chunks.Split(groups == 1 ? matrix : matrix.repeat_interleave(channels / groups, 2));
        }
    }

    /// <summary>
    /// Hands states from chunk to chunk: [B, chunks, E, N] in, the state that enters each chunk out (null where all are zero), and the
    /// state after the last. A single step from a zero state still goes through, so that A has its gradient: zero, not none.
    /// </summary>
    private static (Tensor? Entering, Tensor FinalState) ChainChunks(Tensor local, Tensor passed, Tensor? initialState, bool skipZeros)
    {
        if (local.size(1) == 1 && initialState is null && skipZeros)
        {
            return (null, local.select(1, 0));
        }

        return ChunkedScan.Chain(local, passed, initialState ?? zeros_like(local.select(1, 0)));
    }

    /// <summary>y = C h for states [L, G, E, N] and C [L or 1, G or 1, E or 1, N]: [L, G, E].</summary>
    private static Tensor ReadOut(Tensor states, Tensor readOut)
    {
        if (readOut.size(2) != 1)
        {
            return (states * readOut).sum(-1);
        }

        // One C for all channels is a batched matrix-vector product, which never holds the [.., E, N] product.
        var shape = states.shape;
        return bmm(states.view(-1, shape[2], shape[3]), readOut.reshape(-1, shape[3], 1)).view(shape[0], shape[1], shape[2]);
    }

    /// <summary>Cuts [B, T, ...] into chunks, steps first, and joins them again. The end is padded with zeros, which are no steps.</summary>
    private readonly struct TimeChunks
    {
        private readonly long batch;
        private readonly long time;

        public TimeChunks(long batch, long time, long steps)
        {
            this.batch = batch;
            this.time = time;
            Steps = steps;
            Count = (time + Steps - 1) / Steps;
        }

        /// <summary>Steps of a chunk, L.</summary>
        public long Steps { get; }

        /// <summary>Chunks of a row.</summary>
        public long Count { get; }

        /// <summary>[B, T, ...] to [L, B * Count, ...], contiguous.</summary>
        public Tensor Split(Tensor x)
        {
            var rest = x.shape[2..];
            var missing = (Steps * Count) - time;
            if (missing > 0)
            {
                x = cat([x, zeros([batch, missing, .. rest], dtype: x.dtype, device: x.device)], 1);
            }

            return x.reshape([batch * Count, Steps, .. rest]).transpose(0, 1).contiguous();
        }

        /// <summary>[L, B * Count, E] back to [B, T, E].</summary>
        public Tensor Join(Tensor x) =>
            x.transpose(0, 1).reshape(batch, Count * Steps, -1).narrow(1, 0, time);
    }
}
