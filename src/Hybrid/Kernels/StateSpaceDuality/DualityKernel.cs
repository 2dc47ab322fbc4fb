using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// The recurrence of one head of one batch row, chunk by chunk in the matrix form, with everything of a chunk in the cache: within it
/// <c>Y = (D * C B^T) X</c> for X = dt x and the decays D between its steps, plus what the state before it gives, <c>e_i S C_i</c>; then
/// <c>S = e_L S + sum_j f_j X_j B_j^T</c> with the decays e from its start and f to its end. The channels P are in the lanes, the state
/// is kept as [N, P].
/// </summary>
internal static unsafe partial class DualityKernel<TLane>
    where TLane : struct, ILane<TLane>
{
    private const int L = DualitySizes.ChunkSteps;

    /// <summary>What all heads of a group share in a chunk: C_i B_j for j up to i, and where wanted B and C with time last.</summary>
    public static void Share(in DualityInputs p, DualityShared shared, int row, int group, int chunk)
    {
        var (start, count, n) = (chunk * L, p.Sizes.Count(chunk), p.Sizes.StateSize);
        using var scratch = new Scratch((long)n * L);
        var kept = shared.TimeLastB(row, group, chunk);
        var timeLast = new Rows(kept == null ? scratch.Take(n * L) : kept, L);
        LaneMemory.Turn(p.B.At(row, start, group), p.B.Step, timeLast.First, L, count, n, L);
        if (kept != null)
        {
            LaneMemory.Turn(p.C.At(row, start, group), p.C.Step, shared.TimeLastC(row, group, chunk), L, count, n, L);
        }

        var c = new Elements(p.C.At(row, start, group), p.C.Step, 1);
        LaneProduct<TLane>.Set(c, timeLast, new Rows(shared.Scores(row, group, chunk), L), count, L, n);
    }

    /// <summary>y and the final state.</summary>
    public static void Forward(in DualityInputs p, DualityShared shared, in DualityResults results, int row, int head)
    {
        var at = new Place(p, row, head);
        using var scratch = new Scratch(Chunk.Floats(at) + ((long)at.StateSize * at.Lanes) + (L * at.Lanes) + at.Lanes);
        var chunk = new Chunk(scratch, at);
        var state = new Rows(scratch.Take(at.StateSize * at.Lanes), at.Lanes);
        var y = new Rows(scratch.Take(L * at.Lanes), at.Lanes);
        var skip = scratch.Take(at.Lanes);
        p.Skip(head, skip);
        LoadState(p.Initial, at, state);
        for (var index = 0; index < p.Sizes.Chunks; index++)
        {
            chunk.Load(p, shared, at, index);
            Prefetch(p, at, index + 1, results.Y);
            Outputs(p, at, chunk, state, y);
            SkipAndGate(p, at, chunk, y, skip, results.Y);
            Advance(p, at, chunk, state);
        }

        StoreState(state, results.Final, at);
    }

    /// <summary>Calls the rows of a chunk into the cache, where there is such a chunk.</summary>
    private static void Prefetch(in DualityInputs p, Place at, int index, HeadView other)
    {
        if (index >= 0 && index < p.Sizes.Chunks)
        {
            p.X.Prefetch(at.Row, index * L, p.Sizes.Count(index), at.Head, at.Width);
            p.Z.Prefetch(at.Row, index * L, p.Sizes.Count(index), at.Head, at.Width);
            other.Prefetch(at.Row, index * L, p.Sizes.Count(index), at.Head, at.Width);
        }
    }

    /// <summary>S C of all steps of a chunk, from the state before it.</summary>
    private static void Outputs(in DualityInputs p, Place at, Chunk chunk, Rows state, Rows y)
    {
        var scaled = new Rows(chunk.Scaled, at.StateSize);
        LaneRows<TLane>.Scale(p.C.At(at.Row, chunk.Start, at.Group), p.C.Step, chunk.FromStart, scaled, chunk.Count, at.StateSize);
        LaneProduct<TLane>.Set(scaled.Elements, state, y, chunk.Count, at.Lanes, at.StateSize);
        LaneProduct<TLane>.Lower(new Rows(chunk.Weights, L), chunk.Driven, y, chunk.Count, at.Lanes);
    }

    /// <summary>The state after a chunk from the one before it; uses up X.</summary>
    private static void Advance(in DualityInputs p, Place at, Chunk chunk, Rows state)
    {
        LaneRows<TLane>.Scale(chunk.Driven.First, at.Lanes, chunk.ToEnd, chunk.Driven, chunk.Count, at.Lanes);
        var inMatrix = new Elements(p.B.At(at.Row, chunk.Start, at.Group), 1, p.B.Step);
        LaneProduct<TLane>.Add(inMatrix, chunk.Driven, state, at.StateSize, at.Lanes, chunk.Count, chunk.FromStart[chunk.Count - 1]);
    }

    /// <summary>(y + D x) SiLU(z).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SkipAndGate(in DualityInputs p, Place at, Chunk chunk, Rows y, float* skip, HeadView target)
    {
        for (var i = 0; i < chunk.Count; i++)
        {
            float* x = p.X.At(at.Row, chunk.Start + i, at.Head), result = target.At(at.Row, chunk.Start + i, at.Head);
            var z = p.Z.Exists ? p.Z.At(at.Row, chunk.Start + i, at.Head) : null;
            for (var channel = 0; channel < at.Width; channel += TLane.Count)
            {
                var width = at.Width - channel;
                var value = TLane.Load(y.At(i) + channel);
                if (p.HasSkip)
                {
                    value = TLane.MultiplyAdd(LaneMemory.Load<TLane>(x + channel, width), TLane.Load(skip + channel), value);
                }

                if (z != null)
                {
                    var gate = LaneMemory.Load<TLane>(z + channel, width);
                    value *= gate * LaneMath.Sigmoid(gate);
                }

                LaneMemory.Store(value, result + channel, width);
            }
        }
    }

    /// <summary>A state [P, N] to [N, P]; null is zero. What pads P is zero.</summary>
    private static void LoadState(float* source, Place at, Rows target)
    {
        LaneMemory.Clear(target.First, at.StateSize * at.Lanes);
        if (source != null)
        {
            LaneMemory.Turn(source + at.State, at.StateSize, target.First, at.Lanes, at.Width, at.StateSize, at.Width);
        }
    }

    private static void StoreState(Rows source, float* target, Place at) =>
        LaneMemory.Turn(source.First, at.Lanes, target + at.State, at.StateSize, at.StateSize, at.Width, at.StateSize);

    /// <summary>The part of the work that one call does: a head of a batch row.</summary>
    private readonly struct Place(in DualityInputs p, int row, int head)
    {
        public readonly int Row = row;
        public readonly int Head = head;
        public readonly int Group = head / p.Sizes.HeadsOfGroup;
        public readonly int Width = p.Sizes.HeadWidth;
        public readonly int StateSize = p.Sizes.StateSize;

        /// <summary>P, filled up to whole registers.</summary>
        public readonly int Lanes = LaneProduct<TLane>.Pad(p.Sizes.HeadWidth);

        /// <summary>Among all heads of all rows.</summary>
        public readonly long Index = ((long)row * p.Sizes.Heads) + head;

        /// <summary>Where the states of the head begin in [B, H, P, N].</summary>
        public long State => Index * Width * StateSize;
    }

    /// <summary>A chunk of one head: step sizes, decays and X = dt x.</summary>
    private struct Chunk(Scratch scratch, Place at)
    {
        /// <summary>dt and bias, before softplus and limits.</summary>
        public readonly float* Raw = scratch.Take(L);
        public readonly float* Step = scratch.Take(L);

        /// <summary>exp(dt A), and its products from the start of the chunk to each step.</summary>
        public readonly float* Factors = scratch.Take(L);
        public readonly float* FromStart = scratch.Take(L);

        /// <summary>Decays between the steps [L, L], and those times C_i B_j.</summary>
        public readonly float* Decay = scratch.Take(L * L);
        public readonly float* Weights = scratch.Take(L * L);

        /// <summary>Room for B or C times a factor a step, [L, N].</summary>
        public readonly float* Scaled = scratch.Take(L * at.StateSize);

        /// <summary>X [L, P].</summary>
        public readonly Rows Driven = new(scratch.Take(L * at.Lanes), at.Lanes);

        /// <summary>First step, and number of steps.</summary>
        public int Start;
        public int Count;

        /// <summary>C_i B_j [L, L].</summary>
        public float* Scores;

        /// <summary>Decay from each step to the end of the chunk.</summary>
        public readonly float* ToEnd => Decay + ((Count - 1) * L);

        public static long Floats(Place at) => (4 * L) + (2 * L * L) + ((long)L * (at.StateSize + at.Lanes));

        public void Load(in DualityInputs p, DualityShared shared, Place at, int index)
        {
            (Start, Count) = (index * L, p.Sizes.Count(index));
            Scores = shared.Scores(at.Row, at.Group, index);
            StepSizes(p, at);
            LaneDecay<TLane>.Between(Factors, Count, Decay);
            LaneDecay<TLane>.FromStart(Factors, Count, FromStart);
            LaneRows<TLane>.Multiply(Decay, Scores, Weights, Count * L);
            for (var i = 0; i < Count; i++)
            {
                LaneRows<TLane>.Load(p.X.At(at.Row, Start + i, at.Head), Step[i], Driven.At(i), at.Width, at.Lanes);
            }
        }

        /// <summary>dt = clamp(softplus(dt + bias)), 0 at padding; exp(dt A), 0 at a restart.</summary>
        private readonly void StepSizes(in DualityInputs p, Place at)
        {
            var bias = p.Bias == null ? 0 : p.Bias[at.Head];
            for (var i = 0; i < L; i++)
            {
                Raw[i] = i < Count ? p.Dt.At(at.Row, Start + i)[at.Head] + bias : 0;
            }

            var (low, high, decay) = (TLane.Broadcast(p.Min), TLane.Broadcast(p.Max), TLane.Broadcast(p.A[at.Head]));
            for (var i = 0; i < L; i += TLane.Count)
            {
                var value = TLane.Load(Raw + i);
                value = p.Softplus ? LaneMath.Softplus(value) : value;
                TLane.Store(TLane.AtMost(high, TLane.AtLeast(low, value)), Step + i);
            }

            for (var i = 0; p.HasPadding && i < Count; i++)
            {
                Step[i] = p.IsReal(at.Row, Start + i) ? Step[i] : 0;
            }

            for (var i = 0; i < L; i += TLane.Count)
            {
                TLane.Store(LaneMath.Exp(TLane.Load(Step + i) * decay), Factors + i);
            }

            for (var i = 0; p.HasRestarts && i < Count; i++)
            {
                Factors[i] = p.Restarts(at.Row, Start + i) ? 0 : Factors[i];
            }
        }
    }
}
