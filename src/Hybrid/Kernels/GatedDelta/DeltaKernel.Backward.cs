using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

internal static unsafe partial class DeltaKernel<TLane>
{
    /// <summary>
    /// All gradients. The states before the chunks and m are computed again first; then chunks are taken from the last to the first:
    /// <c>du_j = f_j dS^T k_j + sum_t D_tj (q_t . k_j) do_t + sum_(t&gt;j) D_tj (k_t . k_j) dm_t</c> with <c>dm_t = -beta_t du_t</c>, one row after the
    /// other from the last; queries, keys and states follow from do, dm and u.
    /// </summary>
    public static void Backward(in DeltaInputs p, in DeltaGradients g, int row, int head)
    {
        var at = new Place(p, row, head);
        var size = (long)at.KeyWidth * at.Lanes;
        using var scratch = new Scratch(Chunk.Floats(at) + BackwardChunk.Floats(at) + ((p.Sizes.Chunks + 1) * size) + ((long)p.Sizes.Chunks * L * at.Lanes));
        var chunk = new Chunk(scratch, at);
        var back = new BackwardChunk(scratch, at);
        var gradState = new Rows(scratch.Take(size), at.Lanes);
        var states = scratch.Take(p.Sizes.Chunks * size);
        var surpluses = new Rows(scratch.Take((long)p.Sizes.Chunks * L * at.Lanes), at.Lanes);

        LoadState(p.Initial, at, new Rows(states, at.Lanes));
        for (var index = 0; index < p.Sizes.Chunks; index++)
        {
            var state = new Rows(states + (index * size), at.Lanes);
            chunk.Load(p, at, index);
            Prefetch(p, at, index + 1, default);
            Write(p, at, chunk, state, surpluses.From(index * L));
            if (index < p.Sizes.Chunks - 1)
            {
                var next = new Rows(states + ((index + 1) * size), at.Lanes);
                LaneMemory.Copy(state.First, next.First, (int)size);
                Advance(at, chunk, next);
            }
        }

        LoadState(g.Final, at, gradState);
        for (var index = p.Sizes.Chunks - 1; index >= 0; index--)
        {
            var (state, surplus) = (new Rows(states + (index * size), at.Lanes), surpluses.From(index * L));
            chunk.Load(p, at, index);
            Prefetch(p, at, index - 1, g.O);
            WrittenGradient(p, g, at, chunk, back, surplus, gradState);
            KeyGradients(at, chunk, back, state, gradState);

            var whole = chunk.FromStart[chunk.Count - 1] * LaneRows<TLane>.Dot(state.First, gradState.First, size);
            LaneDecay<TLane>.Gradient(back.Products, back.FromStart, back.ToEnd, whole, chunk.Count, back.Exponent);
            InputGradients(p, g, at, chunk, back, surplus);

            LaneRows<TLane>.Scale(back.GradO.First, at.Lanes, chunk.FromStart, back.GradO, chunk.Count, at.Lanes);
            LaneRows<TLane>.Scale(back.GradSurplus.First, at.Lanes, chunk.FromStart, back.GradSurplus, chunk.Count, at.Lanes);
            LaneProduct<TLane>.Add(chunk.Queries.Transposed, back.GradO, gradState, at.KeyWidth, at.Lanes, chunk.Count, chunk.FromStart[chunk.Count - 1]);
            LaneProduct<TLane>.Add(chunk.Keys.Transposed, back.GradSurplus, gradState, at.KeyWidth, at.Lanes, chunk.Count);
        }

        if (g.Initial != null)
        {
            StoreState(gradState, g.Initial, at);
        }
    }

    /// <summary>u again, its gradient and that of m.</summary>
    private static void WrittenGradient(in DeltaInputs p, in DeltaGradients g, Place at, Chunk chunk, BackwardChunk back, Rows surplus, Rows gradState)
    {
        for (var i = 0; i < chunk.Count; i++)
        {
            LaneRows<TLane>.Load(surplus.At(i), -chunk.Strength[i], chunk.Written.At(i), at.Lanes, at.Lanes);
            LaneRows<TLane>.Load(g.O.At(at.Row, chunk.Start + i, at.Head), p.Scale, back.GradO.At(i), at.Width, at.Lanes);
        }

        LaneRows<TLane>.Scale(chunk.Keys.First, chunk.Keys.Stride, chunk.ToEnd, chunk.Scaled, chunk.Count, at.KeyLanes);
        LaneProduct<TLane>.Set(chunk.Scaled.Elements, gradState, back.GradWritten, chunk.Count, at.Lanes, at.KeyWidth);
        LaneProduct<TLane>.LowerTransposed(chunk.Readings, back.GradO, back.GradWritten, chunk.Count, at.Lanes);
        for (var end = chunk.Count; end > 0; end -= LaneProduct<TLane>.TileRows)
        {
            var first = Math.Max(0, end - LaneProduct<TLane>.TileRows);
            LaneProduct<TLane>.Add(
                chunk.Overlaps.Transposed.From(first, end), back.GradSurplus.From(end), back.GradWritten.From(first), end - first, at.Lanes, chunk.Count - end);
            for (var i = end - 1; i >= first; i--)
            {
                LaneProduct<TLane>.Add(
                    chunk.Overlaps.Transposed.From(i, i + 1), back.GradSurplus.From(i + 1), back.GradWritten.From(i), 1, at.Lanes, end - i - 1);
                LaneRows<TLane>.Load(back.GradWritten.At(i), -chunk.Strength[i], back.GradSurplus.At(i), at.Lanes, at.Lanes);
            }
        }
    }

    /// <summary>Gradients of queries and keys with time last, and what the decays pass on.</summary>
    private static void KeyGradients(Place at, Chunk chunk, BackwardChunk back, Rows state, Rows gradState)
    {
        var (count, keys, values) = (chunk.Count, at.KeyWidth, at.Width);
        Turn(chunk.Written);
        LaneProduct<TLane>.Set(back.GradSurplus.Elements, back.Turned, back.Pairs, count, L, values);
        LaneProduct<TLane>.Set(back.GradO.Elements, back.Turned, back.ReadPairs, count, L, values);
        LaneRows<TLane>.Multiply(back.Pairs.First, chunk.Overlaps.First, back.Products, count * L);
        LaneRows<TLane>.MultiplyAdd(back.ReadPairs.First, chunk.Readings.First, back.Products, count * L);
        LaneRows<TLane>.Multiply(back.Pairs.First, chunk.Decay, back.Pairs.First, count * L);
        LaneRows<TLane>.Multiply(back.ReadPairs.First, chunk.Decay, back.ReadPairs.First, count * L);

        // What the state after the chunk gets of u.
        LaneRows<TLane>.ScaleColumns(back.Turned, chunk.ToEnd, values, L);
        LaneProduct<TLane>.Set(gradState.Elements, back.Turned, back.GradKeys, keys, L, values);
        LaneRows<TLane>.ColumnSums(chunk.KeysTurned.First, back.GradKeys.First, keys, L, back.ToEnd);

        // What m and then o read of the state before it.
        Turn(back.GradSurplus);
        LaneRows<TLane>.ScaleColumns(back.Turned, chunk.FromStart, values, L);
        LaneProduct<TLane>.Set(state.Elements, back.Turned, back.GradQueries, keys, L, values);
        LaneRows<TLane>.ColumnSums(chunk.KeysTurned.First, back.GradQueries.First, keys, L, back.FromStart);
        LaneRows<TLane>.Add(back.GradQueries.First, back.GradKeys.First, keys * L);

        Turn(back.GradO);
        LaneRows<TLane>.ScaleColumns(back.Turned, chunk.FromStart, values, L);
        LaneProduct<TLane>.Set(state.Elements, back.Turned, back.GradQueries, keys, L, values);
        LaneMemory.Turn(chunk.Queries.First, at.KeyLanes, back.QueriesTurned.First, L, count, keys, L);
        LaneRows<TLane>.ColumnSums(back.QueriesTurned.First, back.GradQueries.First, keys, L, back.Exponent);
        LaneRows<TLane>.Add(back.Exponent, back.FromStart, L);

        // Within the chunk: o_t reads u_j by q_t . k_j, m_t by k_t . k_j of two different keys.
        LaneProduct<TLane>.Add(chunk.Queries.Transposed, back.ReadPairs, back.GradKeys, keys, L, count);
        LaneMemory.Turn(back.ReadPairs.First, L, back.PairsTurned.First, L, count, count, L);
        LaneProduct<TLane>.Add(chunk.Keys.Transposed, back.PairsTurned, back.GradQueries, keys, L, count);
        for (var i = 0; i < count; i++)
        {
            back.Pairs.At(i)[i] = 0;
        }

        LaneMemory.Turn(back.Pairs.First, L, back.PairsTurned.First, L, count, count, L);
        LaneRows<TLane>.Add(back.PairsTurned.First, back.Pairs.First, count * L);
        LaneProduct<TLane>.Add(chunk.Keys.Transposed, back.Pairs, back.GradKeys, keys, L, count);

        void Turn(Rows rows) => LaneMemory.Turn(rows.First, at.Lanes, back.Turned.First, L, count, values, L);
    }

    /// <summary>From the gradients of m, u, queries, keys and decays to those of the inputs.</summary>
    private static void InputGradients(in DeltaInputs p, in DeltaGradients g, Place at, Chunk chunk, BackwardChunk back, Rows surplus)
    {
        for (var i = 0; i < chunk.Count; i++)
        {
            var (t, real) = (chunk.Start + i, p.IsReal(at.Row, chunk.Start + i));
            g.Beta.At(at.Row, t)[at.Head] = real ? -LaneRows<TLane>.Dot(back.GradWritten.At(i), surplus.At(i), at.Lanes) : 0;
            LaneRows<TLane>.Store(back.GradSurplus.At(i), -1, g.V.At(at.Row, t, at.Head), at.Width);
            if (g.G.Exists)
            {
                g.G.At(at.Row, t)[at.Head] = real && !p.Restarts(at.Row, t) ? back.Exponent[i] : 0;
            }
        }

        Vectors(p, at, chunk, back.GradQueries, chunk.Queries, chunk.QueryFactors, g.Q);
        Vectors(p, at, chunk, back.GradKeys, chunk.Keys, chunk.KeyFactors, g.K);
    }

    /// <summary>From gradients [K, L] of queries or keys to those of what they were made of: for n = r x of unit length, dx = r (dn - n (n . dn)).</summary>
    private static void Vectors(in DeltaInputs p, Place at, Chunk chunk, Rows gradient, Rows vectors, float* factors, HeadView target)
    {
        LaneMemory.Turn(gradient.First, L, chunk.Scaled.First, at.KeyLanes, at.KeyWidth, chunk.Count, at.KeyLanes);
        for (var i = 0; i < chunk.Count; i++)
        {
            float* row = chunk.Scaled.At(i), vector = vectors.At(i);
            if (p.Normalise)
            {
                var along = TLane.Broadcast(-LaneRows<TLane>.Dot(row, vector, at.KeyLanes));
                for (var column = 0; column < at.KeyLanes; column += TLane.Count)
                {
                    TLane.Store(TLane.MultiplyAdd(along, TLane.Load(vector + column), TLane.Load(row + column)), row + column);
                }
            }

            LaneRows<TLane>.Store(row, factors[i], target.At(at.Row, chunk.Start + i, at.Head), at.KeyWidth);
        }
    }

    /// <summary>What a backward pass needs of a chunk besides what the forward pass does.</summary>
    private readonly struct BackwardChunk(Scratch scratch, Place at)
    {
        /// <summary>Gradients of o with the factor of the queries, of u and of m, [L, V].</summary>
        public readonly Rows GradO = new(scratch.Take(L * at.Lanes), at.Lanes);
        public readonly Rows GradWritten = new(scratch.Take(L * at.Lanes), at.Lanes);
        public readonly Rows GradSurplus = new(scratch.Take(L * at.Lanes), at.Lanes);

        /// <summary>One of these or u with time last, [V, L].</summary>
        public readonly Rows Turned = new(scratch.Take(L * at.Lanes), L);

        /// <summary>Queries and gradients of queries and keys with time last, [K, L].</summary>
        public readonly Rows QueriesTurned = new(scratch.Take(L * at.KeyLanes), L);
        public readonly Rows GradQueries = new(scratch.Take(L * at.KeyLanes), L);
        public readonly Rows GradKeys = new(scratch.Take(L * at.KeyLanes), L);

        /// <summary>D_tj (dm_t . u_j) and D_tj (do_t . u_j), and the transpose of either, [L, L].</summary>
        public readonly Rows Pairs = new(scratch.Take(L * L), L);
        public readonly Rows ReadPairs = new(scratch.Take(L * L), L);
        public readonly Rows PairsTurned = new(scratch.Take(L * L), L);

        /// <summary>What the decay between two steps passes on, [L, L].</summary>
        public readonly float* Products = scratch.Take(L * L);

        /// <summary>What the decays from the start and to the end pass on, [L].</summary>
        public readonly float* FromStart = scratch.Take(L);
        public readonly float* ToEnd = scratch.Take(L);

        /// <summary>Gradient of g, [L].</summary>
        public readonly float* Exponent = scratch.Take(L);

        public static long Floats(Place at) => (3 * L) + (4 * L * L) + (L * ((4L * at.Lanes) + (3 * at.KeyLanes)));
    }
}
