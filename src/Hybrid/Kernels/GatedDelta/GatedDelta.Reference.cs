using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>Steps of a chunk at most: L x L matrices stay small, and T / 64 states are handed on one after the other.</summary>
    private const long MaxChunkSteps = 64;

    /// <summary>
    /// The rule from plain tensor operations, on any device, differentiable by autograd. Inside a chunk that is handed the state S,
    /// <c>u_t = beta_t (v_t - D_t S^T k_t - sum_(j&lt;t) D_tj (k_t . k_j) u_j)</c> is what step t writes, with D_tj the decay after step
    /// j up to step t, and D_t that from the start of the chunk. This is a unit triangular system, solved by forward substitution for
    /// all chunks at once, for S kept apart: <c>U = U_0 - W S</c>. Only then S goes from chunk to chunk. Decays are exponentials of
    /// sums of g over the steps between, never of differences, so no decay is too strong.
    /// </summary>
    internal static (Tensor O, Tensor FinalState) Reference(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g, double scale, bool normalise, Tensor? initialState, Tensor? mask, Tensor? restart)
    {
        var dtype = q.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var (shape, valueWidth) = (q.shape, v.size(-1));
        var (batch, heads, keyWidth) = (shape[0], shape[2], shape[3]);
        var chunks = new HeadChunks(batch, shape[1], heads);

        var query = chunks.Split(Keys(q.to_type(dtype), normalise, scale));              // [G, C, L, K], G = B * H
        var key = chunks.Split(Keys(k.to_type(dtype), normalise, 1));
        var strength = chunks.Split(Strength(beta.to_type(dtype), mask));                // [G, C, L, 1]
        var logDecay = g is null && restart is null
            ? zeros([1, 1, chunks.Steps, 1], dtype: dtype, device: q.device)             // the delta rule: one chunk stands for all
            : chunks.Split(LogDecay(g?.to_type(dtype) ?? zeros_like(beta, dtype: dtype), mask, restart));

        var between = ChunkDecay.Between(logDecay.squeeze(-1));                          // [G, C, L, L]: D_tj at [j, t], zero where j > t
        var fromStart = logDecay.cumsum(-2).exp();                                       // [G, C, L, 1]: D_t
        var toEnd = between.select(-1, chunks.Steps - 1).unsqueeze(-1);                  // [G, C, L, 1]

        // Of the system only what is below its diagonal is read, so the rest need not be cleared.
        var overlap = key.matmul(key.transpose(-2, -1)) * between * strength.transpose(-2, -1);
        var right = cat([chunks.Split(v.to_type(dtype)) * strength, key * (strength * fromStart)], -1);
        var solved = chunks.Steps == 1
            ? right
            : linalg.solve_triangular(overlap.transpose(-2, -1), right, upper: false, unitriangular: true);
        var parts = solved.split([valueWidth, keyWidth], -1);                            // U_0 [G, C, L, V] and W [G, C, L, K]

        var (entering, written, finalState) = ChainChunks(
            parts[0],
            parts[1],
            (key * toEnd).transpose(-2, -1),
            fromStart.narrow(-2, chunks.Steps - 1, 1).expand(batch * heads, chunks.Count, 1, 1),
            initialState?.to_type(dtype).reshape(-1, keyWidth, valueWidth)
                ?? zeros([batch * heads, keyWidth, valueWidth], dtype: dtype, device: q.device));

        var scores = key.matmul(query.transpose(-2, -1)) * between;                      // [G, C, L from, L to]
        var o = (query * fromStart).matmul(entering) + scores.transpose(-2, -1).matmul(written);
        return (chunks.Join(o).to_type(q.dtype), finalState.view(batch, heads, keyWidth, valueWidth));
    }

    /// <summary>x times a factor, divided by its norm where asked.</summary>
    private static Tensor Keys(Tensor x, bool normalise, double factor) =>
        normalise ? x * ((x.square().sum(-1, keepdim: true) + NormEpsilon).rsqrt() * factor)
        : factor == 1 ? x
        : x * factor;

    /// <summary>beta, zero at padding: such a step writes nothing. [B, T, H, 1].</summary>
    private static Tensor Strength(Tensor beta, Tensor? mask) =>
        (mask is null ? beta : beta.masked_fill(mask.logical_not().unsqueeze(-1), 0)).unsqueeze(-1);

    /// <summary>g, zero at padding, which keeps the state, and minus infinity at a restart, which drops it. [B, T, H, 1].</summary>
    private static Tensor LogDecay(Tensor g, Tensor? mask, Tensor? restart)
    {
        if (mask is not null)
        {
            g = g.masked_fill(mask.logical_not().unsqueeze(-1), 0);
        }

        if (restart is not null)
        {
            g = g.masked_fill(restart.unsqueeze(-1), double.NegativeInfinity);
        }

        return g.unsqueeze(-1);
    }

    /// <summary>
    /// Hands S from chunk to chunk. Takes U_0 [G, C, L, V], W [G, C, L, K], the keys decayed to the end [G, C, K, L], the decay of a
    /// whole chunk [G, C, 1, 1] and S [G, K, V]; gives the S that enters each chunk [G, C, K, V], U [G, C, L, V] and the last S.
    /// </summary>
    private static (Tensor Entering, Tensor Written, Tensor FinalState) ChainChunks(
        Tensor values, Tensor readings, Tensor keys, Tensor carried, Tensor state)
    {
        // unbind, not indexing: the gradient of a slice is a tensor of the full size, that of unbind is one stack.
        var (value, reading, key, keep) = (values.unbind(1), readings.unbind(1), keys.unbind(1), carried.unbind(1));
        var entering = new Tensor[value.Length];
        var written = new Tensor[value.Length];
        for (var i = 0; i < value.Length; i++)
        {
            entering[i] = state;
            written[i] = value[i] - reading[i].bmm(state);
            state = key[i].bmm(written[i]).addcmul(state, keep[i], 1);
        }

        return (stack(entering, 1), stack(written, 1), state);
    }

    /// <summary>Cuts [B, T, H, ...] into chunks of heads and joins them again. The end is padded with zeros, which are no steps.</summary>
    private readonly struct HeadChunks
    {
        private readonly long batch;
        private readonly long time;
        private readonly long heads;
        
        public HeadChunks(long batch, long time, long heads)
        {
            (this.batch, this.time, this.heads) = (batch, time, heads);
            Count = (time + MaxChunkSteps - 1) / MaxChunkSteps;
            Steps = (time + Count - 1) / Count;
        }

        /// <summary>Chunks of a batch row, C.</summary>
        public long Count { get; }

        /// <summary>Steps of a chunk, L.</summary>
        public long Steps { get; }

        /// <summary>[B, T, H, X] to [B * H, C, L, X].</summary>
        public Tensor Split(Tensor x)
        {
            var (width, missing) = (x.size(-1), (Steps * Count) - time);
            x = x.transpose(1, 2);
            if (missing > 0)
            {
                x = cat([x, zeros([batch, heads, missing, width], dtype: x.dtype, device: x.device)], 2);
            }

            return x.reshape(batch * heads, Count, Steps, width);
        }

        /// <summary>[B * H, C, L, X] back to [B, T, H, X].</summary>
        public Tensor Join(Tensor x) =>
            x.reshape(batch, heads, Count * Steps, -1).narrow(2, 0, time).transpose(1, 2).contiguous();
    }
}
