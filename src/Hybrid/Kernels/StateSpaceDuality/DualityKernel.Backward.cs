using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

internal static unsafe partial class DualityKernel<TLane>
{
    /// <summary>
    /// All gradients. The states before the chunks are computed again first; then chunks are taken from the last to the first. With
    /// M_ij = dY_i . X_j:
    /// <c>dX_j = f_j dS B_j + sum_i D_ij (C_i . B_j) dY_i</c>, <c>dC_i = e_i S^T dY_i + sum_j D_ij M_ij B_j</c>,
    /// <c>dB_j = f_j dS^T X_j + sum_i D_ij M_ij C_i</c>, <c>dS = e_L dS + sum_i e_i dY_i C_i^T</c>. The gradients of B and C come with time
    /// last, each head's for itself.
    /// </summary>
    public static void Backward(in DualityInputs p, DualityShared shared, in DualityGradients g, int row, int head)
    {
        var at = new Place(p, row, head);
        var size = (long)at.StateSize * at.Lanes;
        using var scratch = new Scratch(Chunk.Floats(at) + BackwardChunk.Floats(at) + ((p.Sizes.Chunks + 1) * size) + (2 * at.Lanes));
        var chunk = new Chunk(scratch, at);
        var back = new BackwardChunk(scratch, at);
        var skip = scratch.Take(at.Lanes);
        var gradSkip = scratch.Take(at.Lanes);
        var gradState = new Rows(scratch.Take(size), at.Lanes);
        var states = scratch.Take(p.Sizes.Chunks * size);
        p.Skip(head, skip);
        LaneMemory.Clear(gradSkip, at.Lanes);
        var (gradDecay, gradBias) = (0f, 0f);

        LoadState(p.Initial, at, new Rows(states, at.Lanes));
        for (var index = 0; index < p.Sizes.Chunks - 1; index++)
        {
            var next = new Rows(states + ((index + 1) * size), at.Lanes);
            LaneMemory.Copy(states + (index * size), next.First, (int)size);
            chunk.Load(p, shared, at, index);
            Prefetch(p, at, index + 1, default);
            Advance(p, at, chunk, next);
        }

        LoadState(g.Final, at, gradState);
        for (var index = p.Sizes.Chunks - 1; index >= 0; index--)
        {
            var state = new Rows(states + (index * size), at.Lanes);
            chunk.Load(p, shared, at, index);
            Prefetch(p, at, index - 1, g.Y);
            Prefetch(p, at, index - 1, g.X);
            Ungate(p, g, at, chunk, back, state, skip);
            MatrixGradients(p, shared, g, at, chunk, back, index, state, gradState);
            DrivenGradient(p, at, chunk, back, gradState);

            var whole = chunk.FromStart[chunk.Count - 1] * LaneRows<TLane>.Dot(state.First, gradState.First, size);
            LaneDecay<TLane>.Gradient(back.Products, back.FromStart, back.ToEnd, whole, chunk.Count, back.Exponent);
            InputGradients(p, g, at, chunk, back, skip, gradSkip, ref gradDecay, ref gradBias);

            LaneRows<TLane>.Scale(back.GradY.First, at.Lanes, chunk.FromStart, back.GradY, chunk.Count, at.Lanes);
            var outMatrix = new Elements(p.C.At(row, chunk.Start, at.Group), 1, p.C.Step);
            LaneProduct<TLane>.Add(outMatrix, back.GradY, gradState, at.StateSize, at.Lanes, chunk.Count, chunk.FromStart[chunk.Count - 1]);
        }

        g.A[at.Index] = gradDecay;
        if (g.Bias != null)
        {
            g.Bias[at.Index] = gradBias;
        }

        if (g.D != null)
        {
            LaneMemory.Copy(gradSkip, g.D + (at.Index * at.Width), at.Width);
        }

        if (g.Initial != null)
        {
            StoreState(gradState, g.Initial, at);
        }
    }

    /// <summary>The gradient of what comes before the gate, and that of the gate, which needs the output once more.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Ungate(in DualityInputs p, in DualityGradients g, Place at, Chunk chunk, BackwardChunk back, Rows state, float* skip)
    {
        if (p.Z.Exists)
        {
            Outputs(p, at, chunk, state, back.GradX);
        }

        for (var i = 0; i < chunk.Count; i++)
        {
            var t = chunk.Start + i;
            var upstream = g.Y.At(at.Row, t, at.Head);
            for (var channel = 0; channel < at.Lanes; channel += TLane.Count)
            {
                var width = at.Width - channel;
                var value = width > 0 ? LaneMemory.Load<TLane>(upstream + channel, width) : TLane.Zero;
                if (p.Z.Exists && width > 0)
                {
                    var gate = LaneMemory.Load<TLane>(p.Z.At(at.Row, t, at.Head) + channel, width);
                    var x = LaneMemory.Load<TLane>(p.X.At(at.Row, t, at.Head) + channel, width);
                    var ungated = TLane.MultiplyAdd(TLane.Load(skip + channel), x, TLane.Load(back.GradX.At(i) + channel));
                    LaneMemory.Store(value * ungated * LaneMath.SiluSlope(gate), g.Z.At(at.Row, t, at.Head) + channel, width);
                    value *= gate * LaneMath.Sigmoid(gate);
                }

                TLane.Store(value, back.GradY.At(i) + channel);
            }
        }
    }

    /// <summary>Gradients of B and C, and on the way those of the decays.</summary>
    private static void MatrixGradients(
        in DualityInputs p, DualityShared shared, in DualityGradients g, Place at, Chunk chunk, BackwardChunk back, int index, Rows state, Rows gradState)
    {
        var (n, count, width) = (at.StateSize, chunk.Count, at.Width);
        LaneMemory.Turn(chunk.Driven.First, at.Lanes, back.Turned.First, L, count, width, L);
        LaneProduct<TLane>.Set(back.GradY.Elements, back.Turned, back.Pairs, count, L, width);                  // M
        LaneRows<TLane>.Multiply(back.Pairs.First, chunk.Decay, back.Pairs.First, count * L);                      // D M
        LaneRows<TLane>.Multiply(back.Pairs.First, chunk.Scores, back.Products, count * L);
        LaneMemory.Turn(back.Pairs.First, L, back.PairsTurned.First, L, count, count, L);

        var place = ((at.Index * p.Sizes.Chunks) + index) * n * L;
        Rows gradB = new(g.B + place, L), gradC = new(g.C + place, L);
        LaneRows<TLane>.ScaleColumns(back.Turned, chunk.ToEnd, width, L);
        LaneProduct<TLane>.Set(gradState.Elements, back.Turned, gradB, n, L, width);
        LaneRows<TLane>.ColumnSums(shared.TimeLastB(at.Row, at.Group, index), gradB.First, n, L, back.ToEnd);
        var outMatrix = new Elements(p.C.At(at.Row, chunk.Start, at.Group), 1, p.C.Step);
        LaneProduct<TLane>.Add(outMatrix, back.Pairs, gradB, n, L, count);

        LaneMemory.Turn(back.GradY.First, at.Lanes, back.Turned.First, L, count, width, L);
        LaneRows<TLane>.ScaleColumns(back.Turned, chunk.FromStart, width, L);
        LaneProduct<TLane>.Set(state.Elements, back.Turned, gradC, n, L, width);
        LaneRows<TLane>.ColumnSums(shared.TimeLastC(at.Row, at.Group, index), gradC.First, n, L, back.FromStart);
        var inMatrix = new Elements(p.B.At(at.Row, chunk.Start, at.Group), 1, p.B.Step);
        LaneProduct<TLane>.Add(inMatrix, back.PairsTurned, gradC, n, L, count);
    }

    private static void DrivenGradient(in DualityInputs p, Place at, Chunk chunk, BackwardChunk back, Rows gradState)
    {
        var scaled = new Rows(chunk.Scaled, at.StateSize);
        LaneRows<TLane>.Scale(p.B.At(at.Row, chunk.Start, at.Group), p.B.Step, chunk.ToEnd, scaled, chunk.Count, at.StateSize);
        LaneProduct<TLane>.Set(scaled.Elements, gradState, back.GradX, chunk.Count, at.Lanes, at.StateSize);
        LaneProduct<TLane>.LowerTransposed(new Rows(chunk.Weights, L), back.GradY, back.GradX, chunk.Count, at.Lanes);
    }

    /// <summary>From the gradients of X = dt x and of dt A to those of x, dt, A, D and the bias.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void InputGradients(
        in DualityInputs p, in DualityGradients g, Place at, Chunk chunk, BackwardChunk back, float* skip, float* gradSkip, ref float gradDecay, ref float gradBias)
    {
        for (var i = 0; i < chunk.Count; i++)
        {
            var (t, sum, step) = (chunk.Start + i, TLane.Zero, TLane.Broadcast(chunk.Step[i]));
            float* x = p.X.At(at.Row, t, at.Head), target = g.X.At(at.Row, t, at.Head);
            for (var channel = 0; channel < at.Width; channel += TLane.Count)
            {
                var width = at.Width - channel;
                var (input, driven) = (LaneMemory.Load<TLane>(x + channel, width), TLane.Load(back.GradX.At(i) + channel));
                var gradY = TLane.Load(back.GradY.At(i) + channel);
                sum = TLane.MultiplyAdd(driven, input, sum);
                LaneMemory.Store(TLane.MultiplyAdd(driven, step, TLane.Load(skip + channel) * gradY), target + channel, width);
                TLane.Store(TLane.MultiplyAdd(gradY, input, TLane.Load(gradSkip + channel)), gradSkip + channel);
            }

            back.GradStep[i] = TLane.Sum(sum);
            gradDecay += back.Exponent[i] * chunk.Step[i];
        }

        var (low, high, decay) = (TLane.Broadcast(p.Min), TLane.Broadcast(p.Max), TLane.Broadcast(p.A[at.Head]));
        for (var i = 0; i < L; i += TLane.Count)
        {
            var raw = TLane.Load(chunk.Raw + i);
            var value = p.Softplus ? LaneMath.Softplus(raw) : raw;
            var gradient = TLane.MultiplyAdd(TLane.Load(back.Exponent + i), decay, TLane.Load(back.GradStep + i));
            gradient = TLane.WhereLess(value, low, TLane.Zero, TLane.WhereLess(high, value, TLane.Zero, gradient));
            TLane.Store(p.Softplus ? gradient * LaneMath.Sigmoid(raw) : gradient, back.GradStep + i);
        }

        for (var i = 0; i < chunk.Count; i++)
        {
            var gradient = p.IsReal(at.Row, chunk.Start + i) ? back.GradStep[i] : 0;
            g.Dt.At(at.Row, chunk.Start + i)[at.Head] = gradient;
            gradBias += gradient;
        }
    }

    /// <summary>What a backward pass needs of a chunk besides what the forward pass does.</summary>
    private readonly struct BackwardChunk(Scratch scratch, Place at)
    {
        /// <summary>The gradient before the gate, [L, P], and that of X.</summary>
        public readonly Rows GradY = new(scratch.Take(L * at.Lanes), at.Lanes);
        public readonly Rows GradX = new(scratch.Take(L * at.Lanes), at.Lanes);

        /// <summary>X or the gradient before the gate with time last, [P, L].</summary>
        public readonly Rows Turned = new(scratch.Take(L * at.Lanes), L);

        /// <summary>D_ij M_ij and its transpose, [L, L].</summary>
        public readonly Rows Pairs = new(scratch.Take(L * L), L);
        public readonly Rows PairsTurned = new(scratch.Take(L * L), L);

        /// <summary>D_ij M_ij C_i . B_j: what the decay between two steps passes on.</summary>
        public readonly float* Products = scratch.Take(L * L);

        /// <summary>What the decays from the start and to the end pass on, [L].</summary>
        public readonly float* FromStart = scratch.Take(L);
        public readonly float* ToEnd = scratch.Take(L);

        /// <summary>Gradients of dt A and of dt, [L].</summary>
        public readonly float* Exponent = scratch.Take(L);
        public readonly float* GradStep = scratch.Take(L);

        public static long Floats(Place at) => (3 * L * at.Lanes) + (3 * L * L) + (4 * L);
    }
}
