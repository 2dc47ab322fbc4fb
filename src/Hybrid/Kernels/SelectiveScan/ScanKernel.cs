using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// The scan of one batch row and one group of channels. A register holds one state n of neighbouring channels, so every operation works on
/// as many channels as it has lanes; B_t[n] and C_t[n] are broadcast, or, where they differ between channels, registers too. A block is as
/// many channels as there are lanes. A chunk of time is worked off in three passes, so that [B, T, E] tensors are read along their rows:
/// step sizes of the group, the recurrence block by block, skip and gate of the group.
/// </summary>
internal static unsafe partial class ScanKernel<TLane, TIn, TOut>
    where TLane : struct, ILane<TLane>
    where TIn : struct, IScanMatrix<TLane>
    where TOut : struct, IScanMatrix<TLane>
{
    private const int K = ScanSizes.ChunkSteps;

    /// <summary>y and the final state; keeps the state before every chunk for a backward pass.</summary>
    public static void Forward(in ScanInputs p, in ScanResults results, int row, int groupIndex)
    {
        var group = new Group(p, row, groupIndex);
        var (lanes, size) = (TLane.Count, group.Size);
        using var scratch = new Scratch(group.Blocks * ((4 * size) + (3 * K * lanes)));
        var operands = new Operands(p, group, scratch);
        var state = scratch.Take(group.Blocks * size);
        var step = scratch.Take(group.Blocks * K * lanes);
        var driven = scratch.Take(group.Blocks * K * lanes);
        var y = scratch.Take(group.Blocks * K * lanes);
        LoadStates(p.Initial, group, state);

        for (var start = 0; start < p.Sizes.Time; start += K)
        {
            var count = Math.Min(K, p.Sizes.Time - start);
            if (results.Boundaries != null)
            {
                LaneMemory.Copy(state, group.Boundary(p, results.Boundaries, start / K), group.Blocks * size);
            }

            StepSizes(p, group, start, count, step, driven);
            for (var block = 0; block < group.Blocks; block++)
            {
                Recur(p, group, operands, block, start, count, step, driven, state + (block * size), y, results.Y);
            }

            SkipAndGate(p, group, start, count, y, results.Y);
        }

        StoreStates(state, results.Final, group);
    }

    /// <summary>step = clamp(softplus(delta + bias)), 0 at padding, and step * u.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void StepSizes(in ScanInputs p, Group group, int start, int count, float* step, float* driven)
    {
        var lanes = TLane.Count;
        var (low, high) = (TLane.Broadcast(p.Min), TLane.Broadcast(p.Max));
        for (var i = 0; i < count; i++)
        {
            float* delta = p.Delta.At(group.Row, start + i) + group.First, u = p.U.At(group.Row, start + i) + group.First;
            var real = p.IsReal(group.Row, start + i);
            for (var block = 0; block < group.Blocks; block++)
            {
                var (channel, width, at) = (block * lanes, group.Width(block), ((block * K) + i) * lanes);
                var value = BiasedDelta(p, group, delta, channel, width);
                value = p.Softplus ? LaneMath.Softplus(value) : value;
                value = real ? TLane.AtMost(high, TLane.AtLeast(low, value)) : TLane.Zero;
                TLane.Store(value, step + at);
                TLane.Store(value * LaneMemory.Load<TLane>(u + channel, width), driven + at);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLane BiasedDelta(in ScanInputs p, Group group, float* delta, int channel, int width)
    {
        var value = LaneMemory.Load<TLane>(delta + channel, width);
        return p.Bias == null ? value : value + LaneMemory.Load<TLane>(p.Bias + group.First + channel, width);
    }

    /// <summary>A chunk of one block: the states move on, and C h goes to <paramref name="y"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Recur(
        in ScanInputs p, Group group, Operands operands, int block, int start, int count, float* step, float* driven, float* state, float* y,
        RowView target)
    {
        var lanes = TLane.Count;
        float* inMatrix = InMatrix(p, group, operands, block, start), outMatrix = OutMatrix(p, group, operands, block, start);
        var decay = operands.Decay + (block * group.Size);
        for (var i = 0; i < count; i++, inMatrix += p.B.Step, outMatrix += p.C.Step)
        {
            if (p.Restarts(group.Row, start + i))
            {
                LaneMemory.Clear(state, group.Size);
            }

            Fetch(p, group, block, start + K + i, target);
            var at = ((block * K) + i) * lanes;
            TLane.Store(Advance(state, decay, TLane.Load(step + at), TLane.Load(driven + at), inMatrix, outMatrix, p.Sizes.StateSize), y + at);
        }
    }

    /// <summary>
    /// Asks for a block's part of the rows of a step of another chunk, a line of each, while the recurrence computes. Rows are as far apart as
    /// they are wide, further than a processor looks ahead by itself: with E = 1536, N = 16 a token takes 5.1 us of one core instead of 7.1.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Fetch(in ScanInputs p, Group group, int block, int time, RowView other)
    {
        if (Sse.IsSupported && time >= 0 && time < p.Sizes.Time)
        {
            var channel = group.First + (block * TLane.Count);
            Sse.Prefetch1(p.U.At(group.Row, time) + channel);
            Sse.Prefetch1(p.Delta.At(group.Row, time) + channel);
            Sse.Prefetch1(other.At(group.Row, time) + channel);
            if (p.Z.Exists)
            {
                Sse.Prefetch1(p.Z.At(group.Row, time) + channel);
            }
        }
    }

    /// <summary>One step of one block: h = 2^(step A log2(e)) h + driven B; returns C h.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLane Advance(float* state, float* decay, TLane step, TLane driven, float* inMatrix, float* outMatrix, int n)
    {
        var y = TLane.Zero;
        for (var i = 0; i < n; i++)
        {
            var at = i * TLane.Count;
            var factor = LaneMath.Exp2(step * TLane.Load(decay + at));
            var h = TLane.MultiplyAdd(factor, TLane.Load(state + at), driven * TIn.Element(inMatrix, i));
            TLane.Store(h, state + at);
            y = TLane.MultiplyAdd(h, TOut.Element(outMatrix, i), y);
        }

        return y;
    }

    /// <summary>B at a time, which all channels of a group share, or the constant one of a block.</summary>
    private static float* InMatrix(in ScanInputs p, Group group, Operands operands, int block, int time) =>
        TIn.PerChannel ? operands.InMatrix + (block * group.Size) : p.B.At(group.Row, time, group.First);

    /// <summary>C, likewise.</summary>
    private static float* OutMatrix(in ScanInputs p, Group group, Operands operands, int block, int time) =>
        TOut.PerChannel ? operands.OutMatrix + (block * group.Size) : p.C.At(group.Row, time, group.First);

    /// <summary>(y + D u) SiLU(z).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SkipAndGate(in ScanInputs p, Group group, int start, int count, float* y, RowView target)
    {
        var lanes = TLane.Count;
        for (var i = 0; i < count; i++)
        {
            float* u = p.U.At(group.Row, start + i) + group.First, result = target.At(group.Row, start + i) + group.First;
            var z = p.Z.Exists ? p.Z.At(group.Row, start + i) + group.First : null;
            for (var block = 0; block < group.Blocks; block++)
            {
                var (channel, width) = (block * lanes, group.Width(block));
                var value = TLane.Load(y + (((block * K) + i) * lanes));
                if (p.D != null)
                {
                    value = TLane.MultiplyAdd(
                        LaneMemory.Load<TLane>(u + channel, width), LaneMemory.Load<TLane>(p.D + group.First + channel, width), value);
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

    /// <summary>States [E, N] of a row to [blocks, N, lanes]; null is zero.</summary>
    private static void LoadStates(float* source, Group group, float* target)
    {
        if (source == null)
        {
            LaneMemory.Clear(target, group.Blocks * group.Size);
            return;
        }

        for (var block = 0; block < group.Blocks; block++)
        {
            LaneMemory.Transpose<TLane>(source + group.StateAt(block), target + (block * group.Size), group.StateSize, group.Width(block));
        }
    }

    private static void StoreStates(float* source, float* target, Group group)
    {
        for (var block = 0; block < group.Blocks; block++)
        {
            LaneMemory.TransposeBack<TLane>(source + (block * group.Size), target + group.StateAt(block), group.StateSize, group.Width(block));
        }
    }

    /// <summary>The part of the work that one call does.</summary>
    private readonly struct Group
    {
        private readonly int channels;
        private readonly int index;
        private readonly int count;

        public Group(in ScanInputs p, int row, int groupIndex)
        {
            (First, count) = p.Sizes.Group(groupIndex);
            (Row, channels, StateSize) = (row, p.Sizes.Channels, p.Sizes.StateSize);
            index = (row * p.Sizes.Groups) + groupIndex;
        }

        /// <summary>Batch row.</summary>
        public int Row { get; }

        /// <summary>First channel.</summary>
        public int First { get; }

        public int StateSize { get; }

        /// <summary>Floats of one block's states.</summary>
        public int Size => StateSize * TLane.Count;

        public int Blocks => (count + TLane.Count - 1) / TLane.Count;

        /// <summary>Channels of a block and of those after it.</summary>
        public int Width(int block) => count - (block * TLane.Count);

        /// <summary>Where the states of a block begin in [B, E, N].</summary>
        public long StateAt(int block) => (((long)Row * channels) + First + (block * TLane.Count)) * StateSize;

        /// <summary>Where the group's states before a chunk are kept.</summary>
        public float* Boundary(in ScanInputs p, float* boundaries, int chunk) =>
            boundaries + (p.Sizes.BoundaryStride * index) + ((long)chunk * Blocks * Size);
    }

    /// <summary>What stays the same over time, as [blocks, N, lanes]: A log2(e), and B and C where they are constant.</summary>
    private readonly struct Operands
    {
        public readonly float* Decay;
        public readonly float* InMatrix;
        public readonly float* OutMatrix;

        public Operands(in ScanInputs p, Group group, Scratch scratch)
        {
            Decay = scratch.Take(group.Blocks * group.Size);
            InMatrix = scratch.Take(group.Blocks * group.Size);
            OutMatrix = scratch.Take(group.Blocks * group.Size);
            for (var block = 0; block < group.Blocks; block++)
            {
                var (at, channel, width) = (block * group.Size, group.First + (block * TLane.Count), group.Width(block));
                LaneMemory.Transpose<TLane>(p.A + ((long)channel * group.StateSize), Decay + at, group.StateSize, width, LaneMath.Log2E);
                if (TIn.PerChannel)
                {
                    LaneMemory.Transpose<TLane>(p.B.At(0, 0, channel), InMatrix + at, group.StateSize, width);
                }

                if (TOut.PerChannel)
                {
                    LaneMemory.Transpose<TLane>(p.C.At(0, 0, channel), OutMatrix + at, group.StateSize, width);
                }
            }
        }
    }
}

/// <summary>How an element of B or C gets into a register.</summary>
internal unsafe interface IScanMatrix<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>True where it differs between channels and is constant in time.</summary>
    static abstract bool PerChannel { get; }

    /// <summary>Element n: of [N], or of [N, lanes].</summary>
    static abstract TLane Element(float* matrix, int n);
}

/// <summary>One row [N] for all channels of a group.</summary>
internal readonly unsafe struct SharedMatrix<TLane> : IScanMatrix<TLane>
    where TLane : struct, ILane<TLane>
{
    public static bool PerChannel => false;

    public static TLane Element(float* matrix, int n) => TLane.Broadcast(matrix[n]);
}

/// <summary>Constant rows [N, lanes].</summary>
internal readonly unsafe struct ChannelMatrix<TLane> : IScanMatrix<TLane>
    where TLane : struct, ILane<TLane>
{
    public static bool PerChannel => true;

    public static TLane Element(float* matrix, int n) => TLane.Load(matrix + (n * TLane.Count));
}
