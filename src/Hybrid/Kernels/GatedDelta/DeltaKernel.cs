using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// The rule of one head of one batch row, chunk by chunk in the matrix form, with everything of a chunk in the cache. With the decays D between its
/// steps, e from its start and f to its end, <c>m_t = e_t S^T k_t + sum_(j&lt;t) D_tj (k_t . k_j) u_j - v_t</c> is by how much what is held for a key
/// surpasses its value, and <c>u_t = -beta_t m_t</c> what the step writes, one row after the other; then
/// <c>o_t = e_t S^T q_t + sum_j D_tj (q_t . k_j) u_j</c> and <c>S = e_L S + sum_j f_j k_j u_j^T</c>. The values V are in the lanes.
/// </summary>
internal static unsafe partial class DeltaKernel<TLane>
    where TLane : struct, ILane<TLane>
{
    private const int L = DeltaSizes.ChunkSteps;

    /// <summary>o and the final state.</summary>
    public static void Forward(in DeltaInputs p, in DeltaResults results, int row, int head)
    {
        var at = new Place(p, row, head);
        using var scratch = new Scratch(Chunk.Floats(at) + ((at.KeyWidth + (2L * L)) * at.Lanes));
        var chunk = new Chunk(scratch, at);
        var state = new Rows(scratch.Take(at.KeyWidth * at.Lanes), at.Lanes);
        var surplus = new Rows(scratch.Take(L * at.Lanes), at.Lanes);
        var o = new Rows(scratch.Take(L * at.Lanes), at.Lanes);
        LoadState(p.Initial, at, state);
        for (var index = 0; index < p.Sizes.Chunks; index++)
        {
            chunk.Load(p, at, index);
            Prefetch(p, at, index + 1, results.O);
            Write(p, at, chunk, state, surplus);
            LaneRows<TLane>.Scale(chunk.Queries.First, chunk.Queries.Stride, chunk.FromStart, chunk.Scaled, chunk.Count, at.KeyLanes);
            LaneProduct<TLane>.Set(chunk.Scaled.Elements, state, o, chunk.Count, at.Lanes, at.KeyWidth);
            LaneProduct<TLane>.Lower(chunk.Readings, chunk.Written, o, chunk.Count, at.Lanes);
            for (var i = 0; i < chunk.Count; i++)
            {
                LaneRows<TLane>.Store(o.At(i), p.Scale, results.O.At(row, chunk.Start + i, head), at.Width);
            }

            Advance(at, chunk, state);
        }

        StoreState(state, results.Final, at);
    }

    /// <summary>Calls the rows of a chunk into the cache, where there is such a chunk.</summary>
    private static void Prefetch(in DeltaInputs p, Place at, int index, HeadView other)
    {
        if (index >= 0 && index < p.Sizes.Chunks)
        {
            p.Q.Prefetch(at.Row, index * L, p.Sizes.Count(index), at.Head, at.KeyWidth);
            p.K.Prefetch(at.Row, index * L, p.Sizes.Count(index), at.Head, at.KeyWidth);
            p.V.Prefetch(at.Row, index * L, p.Sizes.Count(index), at.Head, at.Width);
            other.Prefetch(at.Row, index * L, p.Sizes.Count(index), at.Head, at.Width);
        }
    }

    /// <summary>m and u of all steps of a chunk, from the state before it.</summary>
    private static void Write(in DeltaInputs p, Place at, Chunk chunk, Rows state, Rows surplus)
    {
        for (var i = 0; i < chunk.Count; i++)
        {
            LaneRows<TLane>.Load(p.V.At(at.Row, chunk.Start + i, at.Head), -1, surplus.At(i), at.Width, at.Lanes);
        }

        LaneRows<TLane>.Scale(chunk.Keys.First, chunk.Keys.Stride, chunk.FromStart, chunk.Scaled, chunk.Count, at.KeyLanes);
        LaneProduct<TLane>.Add(chunk.Scaled.Elements, state, surplus, chunk.Count, at.Lanes, at.KeyWidth);
        for (var first = 0; first < chunk.Count; first += LaneProduct<TLane>.TileRows)
        {
            var count = Math.Min(LaneProduct<TLane>.TileRows, chunk.Count - first);
            LaneProduct<TLane>.Add(chunk.Overlaps.From(first).Elements, chunk.Written, surplus.From(first), count, at.Lanes, first);
            for (var i = first; i < first + count; i++)
            {
                LaneProduct<TLane>.Add(chunk.Overlaps.Elements.From(i, first), chunk.Written.From(first), surplus.From(i), 1, at.Lanes, i - first);
                LaneRows<TLane>.Load(surplus.At(i), -chunk.Strength[i], chunk.Written.At(i), at.Lanes, at.Lanes);
            }
        }
    }

    /// <summary>The state after a chunk from the one before it; uses up u.</summary>
    private static void Advance(Place at, Chunk chunk, Rows state)
    {
        LaneRows<TLane>.Scale(chunk.Written.First, at.Lanes, chunk.ToEnd, chunk.Written, chunk.Count, at.Lanes);
        LaneProduct<TLane>.Add(chunk.Keys.Transposed, chunk.Written, state, at.KeyWidth, at.Lanes, chunk.Count, chunk.FromStart[chunk.Count - 1]);
    }

    /// <summary>A state [K, V] with what pads V zero; null is zero.</summary>
    private static void LoadState(float* source, Place at, Rows target)
    {
        for (var i = 0; i < at.KeyWidth; i++)
        {
            LaneRows<TLane>.Load(source + at.State + ((long)i * at.Width), 1, target.At(i), source == null ? 0 : at.Width, at.Lanes);
        }
    }

    private static void StoreState(Rows source, float* target, Place at)
    {
        for (var i = 0; i < at.KeyWidth; i++)
        {
            LaneMemory.Copy(source.At(i), target + at.State + ((long)i * at.Width), at.Width);
        }
    }

    /// <summary>The part of the work that one call does: a head of a batch row.</summary>
    private readonly struct Place(in DeltaInputs p, int row, int head)
    {
        public readonly int Row = row;
        public readonly int Head = head;
        public readonly int KeyWidth = p.Sizes.KeyWidth;
        public readonly int Width = p.Sizes.ValueWidth;

        /// <summary>K and V, filled up to whole registers.</summary>
        public readonly int KeyLanes = LaneProduct<TLane>.Pad(p.Sizes.KeyWidth);
        public readonly int Lanes = LaneProduct<TLane>.Pad(p.Sizes.ValueWidth);

        /// <summary>Where the states of the head begin in [B, H, K, V].</summary>
        public readonly long State = (((long)row * p.Sizes.Heads) + head) * p.Sizes.KeyWidth * p.Sizes.ValueWidth;
    }

    /// <summary>A chunk of one head: queries and keys, decays, and the products of queries and keys.</summary>
    private struct Chunk(Scratch scratch, Place at)
    {
        /// <summary>beta, 0 at padding.</summary>
        public readonly float* Strength = scratch.Take(L);

        /// <summary>exp(g), and its products from the start of the chunk to each step.</summary>
        public readonly float* Factors = scratch.Take(L);
        public readonly float* FromStart = scratch.Take(L);

        /// <summary>1 / norm of queries and keys; 1 where they stay as they are.</summary>
        public readonly float* QueryFactors = scratch.Take(L);
        public readonly float* KeyFactors = scratch.Take(L);

        /// <summary>Decays between the steps [L, L].</summary>
        public readonly float* Decay = scratch.Take(L * L);

        /// <summary>D_tj (k_t . k_j) and D_tj (q_t . k_j) for j up to t, [L, L].</summary>
        public readonly Rows Overlaps = new(scratch.Take(L * L), L);
        public readonly Rows Readings = new(scratch.Take(L * L), L);

        /// <summary>Queries and keys [L, K], of unit length where asked, without the factor of the queries; room for either times a factor a step.</summary>
        public readonly Rows Queries = new(scratch.Take(L * at.KeyLanes), at.KeyLanes);
        public readonly Rows Keys = new(scratch.Take(L * at.KeyLanes), at.KeyLanes);
        public readonly Rows Scaled = new(scratch.Take(L * at.KeyLanes), at.KeyLanes);

        /// <summary>Keys with time last, [K, L].</summary>
        public readonly Rows KeysTurned = new(scratch.Take(L * at.KeyLanes), L);

        /// <summary>u [L, V].</summary>
        public readonly Rows Written = new(scratch.Take(L * at.Lanes), at.Lanes);

        /// <summary>First step, and number of steps.</summary>
        public int Start;
        public int Count;

        /// <summary>Decay from each step to the end of the chunk.</summary>
        public readonly float* ToEnd => Decay + ((Count - 1) * L);

        public static long Floats(Place at) => (5 * L) + (3 * L * L) + ((long)L * ((4 * at.KeyLanes) + at.Lanes));

        public void Load(in DeltaInputs p, Place at, int index)
        {
            (Start, Count) = (index * L, p.Sizes.Count(index));
            for (var i = 0; i < Count; i++)
            {
                var (t, real) = (Start + i, p.IsReal(at.Row, Start + i));
                Strength[i] = real ? p.Beta.At(at.Row, t)[at.Head] : 0;
                Factors[i] = real && p.G.Exists ? p.G.At(at.Row, t)[at.Head] : 0;
                QueryFactors[i] = Unit(p, p.Q.At(at.Row, t, at.Head), Queries.At(i), at);
                KeyFactors[i] = Unit(p, p.K.At(at.Row, t, at.Head), Keys.At(i), at);
            }

            LaneMemory.Clear(Factors + Count, L - Count);
            for (var i = 0; i < L; i += TLane.Count)
            {
                TLane.Store(LaneMath.Exp(TLane.Load(Factors + i)), Factors + i);
            }

            for (var i = 0; i < Count; i++)
            {
                Factors[i] = p.Restarts(at.Row, Start + i) ? 0 : Factors[i];
            }

            LaneDecay<TLane>.Between(Factors, Count, Decay);
            LaneDecay<TLane>.FromStart(Factors, Count, FromStart);
            LaneMemory.Turn(Keys.First, at.KeyLanes, KeysTurned.First, L, Count, at.KeyWidth, L);
            Compare(Keys, Overlaps, at);
            Compare(Queries, Readings, at);
        }

        /// <summary>Products with the keys, decayed.</summary>
        private readonly void Compare(Rows left, Rows target, Place at)
        {
            LaneProduct<TLane>.Set(left.Elements, KeysTurned, target, Count, L, at.KeyWidth);
            LaneRows<TLane>.Multiply(target.First, Decay, target.First, Count * L);
        }

        /// <summary>A query or key, divided by its norm where asked; returns what it was multiplied by.</summary>
        private static float Unit(in DeltaInputs p, float* source, float* target, Place at)
        {
            LaneRows<TLane>.Load(source, 1, target, at.KeyWidth, at.KeyLanes);
            if (!p.Normalise)
            {
                return 1;
            }

            var factor = 1 / MathF.Sqrt(LaneRows<TLane>.Dot(target, target, at.KeyLanes) + (float)GatedDelta.NormEpsilon);
            LaneRows<TLane>.Load(target, factor, target, at.KeyLanes, at.KeyLanes);
            return factor;
        }
    }
}
