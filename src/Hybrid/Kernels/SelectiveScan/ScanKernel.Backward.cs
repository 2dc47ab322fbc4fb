using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

internal static unsafe partial class ScanKernel<TLane, TIn, TOut>
{
    /// <summary>
    /// All gradients. Chunks are taken from the last to the first; the states within a chunk are computed again from the one before it, so
    /// that [B, T, E, N] is never stored.
    /// </summary>
    public static void Backward(in ScanInputs p, in ScanGradients g, int row, int groupIndex)
    {
        var group = new Group(p, row, groupIndex);
        var (lanes, size, blocks) = (TLane.Count, group.Size, group.Blocks);
        using var scratch = new Scratch((blocks * ((5 * size) + (5 * K * lanes) + (2 * lanes))) + (((2 * K) + 1 + (2 * Math.Max(K, blocks))) * size));
        var operands = new Operands(p, group, scratch);
        var chunk = new BackwardChunk(scratch, blocks, size);
        LoadStates(g.Final, group, chunk.Carried);
        LaneMemory.Clear(chunk.GradDecay, blocks * size);
        LaneMemory.Clear(chunk.SumIn, SumSize(TIn.PerChannel));
        LaneMemory.Clear(chunk.SumOut, SumSize(TOut.PerChannel));
        LaneMemory.Clear(chunk.GradD, 2 * blocks * lanes);

        for (var index = p.Sizes.Chunks - 1; index >= 0; index--)
        {
            var (start, count) = (index * K, Math.Min(K, p.Sizes.Time - (index * K)));
            StepSizes(p, group, start, count, chunk.Step, chunk.Driven);
            Ungate(p, g, group, start, count, chunk.GradY);
            var boundary = group.Boundary(p, g.Boundaries, index);
            for (var block = 0; block < blocks; block++)
            {
                LaneMemory.Copy(boundary + (block * size), chunk.States, size);
                Recompute(p, group, operands, block, start, count, chunk);
                Return(p, group, operands, block, start, count, chunk, g.Y);
            }

            InputGradients(p, g, group, start, count, chunk);
            if (!TIn.PerChannel)
            {
                SumLanes(chunk.SumIn, g.B + Part(p.Sizes, start), count * p.Sizes.StateSize);
            }

            if (!TOut.PerChannel)
            {
                SumLanes(chunk.SumOut, g.C + Part(p.Sizes, start), count * p.Sizes.StateSize);
            }
        }

        StoreStates(chunk.GradDecay, g.A, group);
        if (TIn.PerChannel)
        {
            StoreStates(chunk.SumIn, g.B, group);
        }

        if (TOut.PerChannel)
        {
            StoreStates(chunk.SumOut, g.C, group);
        }

        if (g.Initial != null)
        {
            StoreStates(chunk.Carried, g.Initial, group);
        }

        StoreChannels(chunk.GradD, g.D, group, p.Sizes.Channels);
        StoreChannels(chunk.GradBias, g.Bias, group, p.Sizes.Channels);

        int SumSize(bool perChannel) => perChannel ? blocks * size : K * size;

        long Part(ScanSizes sizes, int time) => ((((long)groupIndex * sizes.Batch) + row) * sizes.Time + time) * sizes.StateSize;
    }

    /// <summary>The gradient of what comes before the gate.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Ungate(in ScanInputs p, in ScanGradients g, Group group, int start, int count, float* gradY)
    {
        var lanes = TLane.Count;
        for (var i = 0; i < count; i++)
        {
            var source = g.Y.At(group.Row, start + i) + group.First;
            var z = p.Z.Exists ? p.Z.At(group.Row, start + i) + group.First : null;
            for (var block = 0; block < group.Blocks; block++)
            {
                var (channel, width) = (block * lanes, group.Width(block));
                var value = LaneMemory.Load<TLane>(source + channel, width);
                if (z != null)
                {
                    var gate = LaneMemory.Load<TLane>(z + channel, width);
                    value *= gate * LaneMath.Sigmoid(gate);
                }

                TLane.Store(value, gradY + (((block * K) + i) * lanes));
            }
        }
    }

    /// <summary>The states and decay factors of a chunk of one block, from the state before it, and C h, which the gate's gradient needs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Recompute(in ScanInputs p, Group group, Operands operands, int block, int start, int count, BackwardChunk chunk)
    {
        var (lanes, size, n) = (TLane.Count, group.Size, p.Sizes.StateSize);
        float* decay = operands.Decay + (block * size);
        float* inMatrix = InMatrix(p, group, operands, block, start), outMatrix = OutMatrix(p, group, operands, block, start);
        for (var i = 0; i < count; i++, inMatrix += p.B.Step, outMatrix += p.C.Step)
        {
            var at = ((block * K) + i) * lanes;
            var (step, driven, y) = (TLane.Load(chunk.Step + at), TLane.Load(chunk.Driven + at), TLane.Zero);
            float* before = chunk.States + (i * size), after = before + size, factors = chunk.Factors + (i * size);
            var restarts = p.Restarts(group.Row, start + i);
            for (var s = 0; s < n; s++)
            {
                var factor = restarts ? TLane.Zero : LaneMath.Exp2(step * TLane.Load(decay + (s * lanes)));
                var h = driven * TIn.Element(inMatrix, s);
                h = restarts ? h : TLane.MultiplyAdd(factor, TLane.Load(before + (s * lanes)), h);
                TLane.Store(factor, factors + (s * lanes));
                TLane.Store(h, after + (s * lanes));
                y = TLane.MultiplyAdd(h, TOut.Element(outMatrix, s), y);
            }

            TLane.Store(y, chunk.Y + at);
        }
    }

    /// <summary>
    /// The steps of a chunk of one block backwards: with dh the gradient of h_t and a = exp(step A): dh += C dy, d(step) += dh h_(t-1) a A,
    /// d(step u) = dh B, and dh_(t-1) = a dh.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Return(in ScanInputs p, Group group, Operands operands, int block, int start, int count, BackwardChunk chunk, RowView gradient)
    {
        var (lanes, size, n) = (TLane.Count, group.Size, p.Sizes.StateSize);
        float* decay = operands.Decay + (block * size), carried = chunk.Carried + (block * size), gradDecay = chunk.GradDecay + (block * size);

        // The first block of a group starts the sums over channels; sums over time go on.
        var (freshIn, freshOut) = (!TIn.PerChannel && block == 0, !TOut.PerChannel && block == 0);
        float* inMatrix = InMatrix(p, group, operands, block, start + count - 1), outMatrix = OutMatrix(p, group, operands, block, start + count - 1);
        for (var i = count - 1; i >= 0; i--, inMatrix -= p.B.Step, outMatrix -= p.C.Step)
        {
            Fetch(p, group, block, start - K + i, gradient);
            var at = ((block * K) + i) * lanes;
            var (step, driven, gradY) = (TLane.Load(chunk.Step + at), TLane.Load(chunk.Driven + at), TLane.Load(chunk.GradY + at));
            float* before = chunk.States + (i * size), after = before + size, factors = chunk.Factors + (i * size);
            float* sumIn = chunk.SumIn + ((TIn.PerChannel ? block : i) * size), sumOut = chunk.SumOut + ((TOut.PerChannel ? block : i) * size);
            if (freshIn)
            {
                LaneMemory.Clear(sumIn, size);
            }

            if (freshOut)
            {
                LaneMemory.Clear(sumOut, size);
            }

            var (gradExponent, gradDriven) = (TLane.Zero, TLane.Zero);
            for (var s = 0; s < n; s++)
            {
                var l = s * lanes;
                var dh = TLane.MultiplyAdd(gradY, TOut.Element(outMatrix, s), TLane.Load(carried + l));
                TLane.Store(TLane.MultiplyAdd(gradY, TLane.Load(after + l), TLane.Load(sumOut + l)), sumOut + l);
                TLane.Store(TLane.MultiplyAdd(dh, driven, TLane.Load(sumIn + l)), sumIn + l);
                gradDriven = TLane.MultiplyAdd(dh, TIn.Element(inMatrix, s), gradDriven);

                var passed = dh * TLane.Load(factors + l);
                var exponent = passed * TLane.Load(before + l);          // gradient of step * A
                gradExponent = TLane.MultiplyAdd(exponent, TLane.Load(decay + l), gradExponent);
                TLane.Store(TLane.MultiplyAdd(exponent, step, TLane.Load(gradDecay + l)), gradDecay + l);
                TLane.Store(passed, carried + l);
            }

            TLane.Store(gradExponent * TLane.Broadcast(LaneMath.Ln2), chunk.GradStep + at);
            TLane.Store(gradDriven, chunk.Driven + at);
        }
    }

    /// <summary>From the gradients of step and step * u to those of u, delta, z, D and the bias.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void InputGradients(in ScanInputs p, in ScanGradients g, Group group, int start, int count, BackwardChunk chunk)
    {
        var lanes = TLane.Count;
        var (low, high) = (TLane.Broadcast(p.Min), TLane.Broadcast(p.Max));
        for (var i = 0; i < count; i++)
        {
            var t = start + i;
            float* u = p.U.At(group.Row, t) + group.First, delta = p.Delta.At(group.Row, t) + group.First;
            float* gradU = g.U.At(group.Row, t) + group.First, gradDelta = g.Delta.At(group.Row, t) + group.First;
            var real = p.IsReal(group.Row, t);
            for (var block = 0; block < group.Blocks; block++)
            {
                var (channel, width, at) = (block * lanes, group.Width(block), ((block * K) + i) * lanes);
                var input = LaneMemory.Load<TLane>(u + channel, width);
                var (gradY, gradDriven) = (TLane.Load(chunk.GradY + at), TLane.Load(chunk.Driven + at));
                var skip = p.D == null ? TLane.Zero : LaneMemory.Load<TLane>(p.D + group.First + channel, width);
                LaneMemory.Store(TLane.MultiplyAdd(gradDriven, TLane.Load(chunk.Step + at), skip * gradY), gradU + channel, width);

                var gradStep = TLane.MultiplyAdd(gradDriven, input, TLane.Load(chunk.GradStep + at));
                var raw = BiasedDelta(p, group, delta, channel, width);
                var value = p.Softplus ? LaneMath.Softplus(raw) : raw;
                gradStep = TLane.WhereLess(value, low, TLane.Zero, TLane.WhereLess(high, value, TLane.Zero, gradStep));
                gradStep = real ? p.Softplus ? gradStep * LaneMath.Sigmoid(raw) : gradStep : TLane.Zero;
                LaneMemory.Store(gradStep, gradDelta + channel, width);

                TLane.Store(TLane.Load(chunk.GradBias + channel) + gradStep, chunk.GradBias + channel);
                TLane.Store(TLane.MultiplyAdd(gradY, input, TLane.Load(chunk.GradD + channel)), chunk.GradD + channel);
                if (p.Z.Exists)
                {
                    var gate = LaneMemory.Load<TLane>(p.Z.At(group.Row, t) + group.First + channel, width);
                    var ungated = TLane.MultiplyAdd(skip, input, TLane.Load(chunk.Y + at));
                    var upstream = LaneMemory.Load<TLane>(g.Y.At(group.Row, t) + group.First + channel, width);
                    LaneMemory.Store(
                        upstream * ungated * LaneMath.SiluSlope(gate), g.Z.At(group.Row, t) + group.First + channel, width);
                }
            }
        }
    }

    private static void SumLanes(float* source, float* target, int count)
    {
        for (var i = 0; i < count; i++)
        {
            target[i] = TLane.Sum(TLane.Load(source + (i * TLane.Count)));
        }
    }

    /// <summary>One value a channel to [B, E].</summary>
    private static void StoreChannels(float* source, float* target, Group group, int channels)
    {
        for (var block = 0; target != null && block < group.Blocks; block++)
        {
            var channel = block * TLane.Count;
            LaneMemory.Store(TLane.Load(source + channel), target + ((long)group.Row * channels) + group.First + channel, group.Width(block));
        }
    }

    /// <summary>Memory of a backward pass: for a chunk [blocks, K, lanes], for a block [K, N, lanes], for the group [blocks, N, lanes].</summary>
    private readonly struct BackwardChunk(Scratch scratch, int blocks, int size)
    {
        public readonly float* Step = scratch.Take(blocks * K * TLane.Count);
        public readonly float* GradStep = scratch.Take(blocks * K * TLane.Count);
        public readonly float* GradY = scratch.Take(blocks * K * TLane.Count);
        public readonly float* Y = scratch.Take(blocks * K * TLane.Count);

        /// <summary>step * u, and in the end its gradient.</summary>
        public readonly float* Driven = scratch.Take(blocks * K * TLane.Count);

        /// <summary>h before the chunk and after each of its steps.</summary>
        public readonly float* States = scratch.Take((K + 1) * size);

        /// <summary>exp(step A).</summary>
        public readonly float* Factors = scratch.Take(K * size);

        /// <summary>Gradients of B and C: of each step for all channels, or, where constant, of each channel.</summary>
        public readonly float* SumIn = scratch.Take(Math.Max(K, blocks) * size);
        public readonly float* SumOut = scratch.Take(Math.Max(K, blocks) * size);

        /// <summary>Gradient of h, handed from later to earlier steps.</summary>
        public readonly float* Carried = scratch.Take(blocks * size);
        public readonly float* GradDecay = scratch.Take(blocks * size);

        public readonly float* GradD = scratch.Take(blocks * TLane.Count);
        public readonly float* GradBias = scratch.Take(blocks * TLane.Count);
    }
}
