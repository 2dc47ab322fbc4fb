using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class StateSpaceDuality
{
    /// <summary>
    /// The chunked matrix form from plain tensor operations, on any device, differentiable by autograd. Inside a chunk of L steps the
    /// output is a masked attention, <c>y = (decay * C B^T) (dt x)</c>; the states between chunks are chained one chunk after another;
    /// each step then reads what its chunk was handed. The decay between two steps is the exponential of a sum of non-positive terms,
    /// never a quotient or a difference of large sums, so no step size can overflow or cancel.
    /// </summary>
    internal static (Tensor Y, Tensor FinalState) Reference(
        Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dtBias, bool dtSoftplus, double? dtMin, double? dtMax,
        Tensor? initialState, Tensor? mask, Tensor? restart, long chunkSize)
    {
        var dtype = x.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var input = x.to_type(dtype);
        var step = StepSizes(dt.to_type(dtype), dtBias?.to_type(dtype), dtSoftplus, dtMin, dtMax, mask);   // [B, T, H]
        var (y, finalState) = Driven(
            input, step, step * A.to_type(dtype), B.to_type(dtype), C.to_type(dtype), initialState?.to_type(dtype), restart, chunkSize);
        return (SkipAndGate(y, input, D, z).to_type(x.dtype), finalState);
    }

    /// <summary>
    /// <c>S_t = exp(a_t) S_(t-1) + s_t x_t B_t^T</c>, <c>y_t = S_t C_t</c>, all of one dtype; takes x [B, T, H, P], s and a [B, T, H], B and C
    /// [B, T, G, N] and the state before the first step; gives y and the state after the last step.
    /// </summary>
    private static (Tensor Y, Tensor FinalState) Driven(
        Tensor x, Tensor step, Tensor logDecay, Tensor B, Tensor C, Tensor? initialState, Tensor? restart, long chunkSize)
    {
        var shape = x.shape;
        var chunks = new TimeChunks(shape[0], shape[1], chunkSize);
        var sizes = new Sizes(chunks.Rows, chunks.Steps, shape[2], B.size(2), shape[3], B.size(3));
        if (restart is not null)
        {
            logDecay = logDecay.masked_fill(restart.unsqueeze(-1), double.NegativeInfinity);
        }

        var driven = chunks.Split(x * step.unsqueeze(-1));                                                  // [R, H, L, P]
        var steps = chunks.Split(logDecay);                                                                 // [R, H, L]
        var inputMatrix = chunks.Split(B).view(-1, sizes.Steps, sizes.State);                               // [R G, L, N]
        var outputMatrix = chunks.Split(C).view(-1, sizes.Steps, sizes.State);

        var decay = ChunkDecay.Between(steps);                                                              // [R, H, L from, L to]
        var y = InsideChunks(sizes, decay, driven, inputMatrix, outputMatrix);                              // [R, H, L, P]
        var local = ChunkStates(sizes, decay, driven, inputMatrix);                                         // [R, H, P, N]
        if (chunks.Count == 1 && initialState is null)
        {
            return (chunks.Join(y), local);
        }

        var sinceStart = steps.cumsum(-1).exp();                                                            // [R, H, L]
        var (entering, finalState) = ChainChunks(chunks, local, sinceStart.select(-1, sizes.Steps - 1), initialState);
        return (chunks.Join(y + FromEnteringState(sizes, sinceStart, entering, outputMatrix)), finalState);
    }

    /// <summary>(y + D x) SiLU(z), where there are such; x has the dtype of y.</summary>
    private static Tensor SkipAndGate(Tensor y, Tensor x, Tensor? D, Tensor? z)
    {
        if (D is not null)
        {
            var skip = D.to_type(y.dtype);
            y = y + (x * (skip.dim() == 1 ? skip.unsqueeze(-1) : skip));
        }

        return z is null ? y : y * z.to_type(y.dtype).silu();
    }

    /// <summary>The step sizes of the recurrence, zero at padding: a step of zero keeps the state and adds nothing.</summary>
    internal static Tensor StepSizes(Tensor dt, Tensor? bias, bool softplus, double? min, double? max, Tensor? mask)
    {
        var step = bias is null ? dt : dt + bias;
        step = softplus ? step.softplus() : step;
        step = min is { } low ? step.clamp_min(low) : step;
        step = max is { } high ? step.clamp_max(high) : step;
        return mask is null ? step : step.masked_fill(mask.logical_not().unsqueeze(-1), 0);
    }

    /// <summary>y_i = sum over j up to i of (C_i . B_j) decay(j, i) driven_j: [R, H, L, P].</summary>
    private static Tensor InsideChunks(Sizes s, Tensor decay, Tensor driven, Tensor inputMatrix, Tensor outputMatrix)
    {
        var scores = bmm(inputMatrix, outputMatrix.transpose(1, 2));                                        // [R G, L from, L to]
        var weights = decay.view(-1, s.HeadsOfGroup, s.Steps, s.Steps) * scores.unsqueeze(1);
        return bmm(weights.view(-1, s.Steps, s.Steps).transpose(1, 2), driven.view(-1, s.Steps, s.HeadWidth))
            .view(s.Rows, s.Heads, s.Steps, s.HeadWidth);
    }

    /// <summary>The state at the end of each chunk that started from zero: sum over j of decay(j, L) driven_j B_j^T.</summary>
    private static Tensor ChunkStates(Sizes s, Tensor decay, Tensor driven, Tensor inputMatrix)
    {
        var weighted = driven * decay.select(-1, s.Steps - 1).unsqueeze(-1);                                // [R, H, L, P]
        var byGroup = weighted.transpose(2, 3).reshape(-1, s.HeadsOfGroup * s.HeadWidth, s.Steps);          // [R G, H/G P, L]
        return bmm(byGroup, inputMatrix).view(s.Rows, s.Heads, s.HeadWidth, s.State);
    }

    /// <summary>What each step reads of the state that its chunk was handed: decay(start, i) S C_i, [R, H, L, P].</summary>
    private static Tensor FromEnteringState(Sizes s, Tensor sinceStart, Tensor entering, Tensor outputMatrix)
    {
        var byGroup = entering.view(-1, s.HeadsOfGroup * s.HeadWidth, s.State);
        return bmm(byGroup, outputMatrix.transpose(1, 2)).view(s.Rows, s.Heads, s.HeadWidth, s.Steps)
            .transpose(2, 3) * sinceStart.unsqueeze(-1);
    }

    /// <summary>Hands states from chunk to chunk: the state that enters each chunk, [R, H, P, N], and the one after the last.</summary>
    private static (Tensor Entering, Tensor FinalState) ChainChunks(TimeChunks chunks, Tensor local, Tensor passed, Tensor? initialState)
    {
        var locals = chunks.ByRow(local);                                                                   // [B, chunks, H, P, N]
        var (entering, finalState) = ChunkedScan.Chain(
            locals, chunks.ByRow(passed).unsqueeze(-1).unsqueeze(-1), initialState ?? zeros_like(locals.select(1, 0)));
        return (entering.view(local.shape), finalState);
    }

    /// <summary>R rows (batch rows times chunks), L steps, H heads in G groups, head width P, state size N.</summary>
    private readonly record struct Sizes(long Rows, long Steps, long Heads, long Groups, long HeadWidth, long State)
    {
        public long HeadsOfGroup => Heads / Groups;
    }

    /// <summary>Cuts [B, T, ...] into equal chunks and joins them again. The end is padded with zeros, which are no steps.</summary>
    private readonly struct TimeChunks
    {
        private readonly long batch;
        private readonly long time;

        public TimeChunks(long batch, long time, long longest)
        {
            this.batch = batch;
            this.time = time;
            Count = (time + longest - 1) / longest;
            Steps = (time + Count - 1) / Count;
        }

        /// <summary>Chunks of a batch row.</summary>
        public long Count { get; }

        /// <summary>Steps of a chunk, L.</summary>
        public long Steps { get; }

        /// <summary>Chunks of all batch rows, R.</summary>
        public long Rows => batch * Count;

        /// <summary>[B, T, H, ...] to [R, H, L, ...], contiguous.</summary>
        public Tensor Split(Tensor x)
        {
            var rest = x.shape[2..];
            var missing = (Steps * Count) - time;
            if (missing > 0)
            {
                x = cat([x, zeros([batch, missing, .. rest], dtype: x.dtype, device: x.device)], 1);
            }

            return x.reshape([Rows, Steps, .. rest]).transpose(1, 2).contiguous();
        }

        /// <summary>[R, H, L, P] back to [B, T, H, P].</summary>
        public Tensor Join(Tensor x)
        {
            var shape = x.shape;
            return x.transpose(1, 2).reshape(batch, Count * Steps, shape[1], shape[3]).narrow(1, 0, time);
        }

        /// <summary>[R, ...] as [B, chunks, ...].</summary>
        public Tensor ByRow(Tensor x) => x.reshape([batch, Count, .. x.shape[1..]]);
    }
}
