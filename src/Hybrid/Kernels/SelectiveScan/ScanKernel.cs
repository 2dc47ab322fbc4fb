using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// The recurrence of one batch row and one group of channels. A register holds one state n of neighbouring channels, so every operation
/// works on as many channels as it has lanes; B_t[n] and C_t[n] are broadcast.
/// </summary>
internal static unsafe class ScanKernel<TLane>
    where TLane : struct, ILane<TLane>
{
    private const int K = ScanSizes.ChunkSteps;

    /// <summary>y and the final state; keeps the state at every chunk boundary for the backward pass.</summary>
    public static void Forward(ScanSizes sizes, ScanPointers p, int row, int group)
    {
        var (lanes, n) = (TLane.Count, sizes.StateSize);
        using var scratch = new Scratch((2 * n * lanes) + (3 * lanes));
        var state = scratch.Take(n * lanes);
        var decay = scratch.Take(n * lanes);
        var block = new Block(scratch, lanes);
        var boundary = p.Boundaries + (sizes.BoundaryStride * ((row * sizes.Groups) + group));

        for (var first = group * ScanSizes.GroupChannels; block.Start(sizes, group, first); first += lanes)
        {
            Transpose(p.Decay + ((long)first * n), decay, n, lanes, block.Width);
            Transpose(p.Initial + ((((long)row * sizes.Channels) + first) * n), state, n, lanes, block.Width);
            for (var t = 0; t < sizes.Time; t++)
            {
                if (t % K == 0)
                {
                    Copy(state, Boundary(sizes, boundary, t / K, first, group), n * lanes);
                }

                var at = (((long)row * sizes.Time) + t) * sizes.Channels;
                var matrix = (((long)row * sizes.Time) + t) * n;
                var step = block.Load(p.Step + at + first, 0);
                var y = Advance(state, decay, null, step, step * block.Load(p.Input + at + first, 1), p.InMatrix + matrix, p.OutMatrix + matrix, n);
                block.Store(y, p.Y + at + first);
            }

            TransposeBack(state, p.Final + ((((long)row * sizes.Channels) + first) * n), n, lanes, block.Width);
        }
    }

    /// <summary>All gradients; p.Y and p.Final hold the gradients of the outputs.</summary>
    public static void Backward(ScanSizes sizes, ScanPointers p, ScanGradients g, int row, int group)
    {
        var (lanes, n) = (TLane.Count, sizes.StateSize);
        var size = n * lanes;
        var blocks = (Math.Min(ScanSizes.GroupChannels, sizes.Channels - (group * ScanSizes.GroupChannels)) + lanes - 1) / lanes;
        using var scratch = new Scratch((size * ((4 * K) + 3 + (2 * blocks))) + (3 * lanes));
        var states = scratch.Take((K + 1) * size);                       // h before the chunk and after each of its steps
        var factors = scratch.Take(K * size);                            // exp(step A)
        var sumInMatrix = scratch.Take(K * size);
        var sumOutMatrix = scratch.Take(K * size);
        var decay = scratch.Take(size);
        var carried = scratch.Take(blocks * size);                       // gradient of h, handed from later to earlier steps
        var gradDecay = scratch.Take(blocks * size);
        var block = new Block(scratch, lanes);
        var boundary = p.Boundaries + (sizes.BoundaryStride * ((row * sizes.Groups) + group));

        for (var (first, i) = (group * ScanSizes.GroupChannels, 0); block.Start(sizes, group, first); first += lanes, i++)
        {
            Transpose(p.Final + ((((long)row * sizes.Channels) + first) * n), carried + (i * size), n, lanes, block.Width);
            Clear(gradDecay + (i * size), size);
        }

        for (var chunk = sizes.Chunks - 1; chunk >= 0; chunk--)
        {
            var (start, count) = (chunk * K, Math.Min(K, sizes.Time - (chunk * K)));
            Clear(sumInMatrix, count * size);
            Clear(sumOutMatrix, count * size);
            for (var (first, i) = (group * ScanSizes.GroupChannels, 0); block.Start(sizes, group, first); first += lanes, i++)
            {
                Transpose(p.Decay + ((long)first * n), decay, n, lanes, block.Width);
                Copy(Boundary(sizes, boundary, chunk, first, group), states, size);
                Recompute(sizes, p, row, start, count, first, block, states, factors, decay);
                BackwardChunk(
                    sizes, p, g, row, start, count, first, block, states, factors, decay,
                    carried + (i * size), gradDecay + (i * size), sumInMatrix, sumOutMatrix);
            }

            SumLanes(sumInMatrix, g.InMatrix + Part(start), count * n, lanes);
            SumLanes(sumOutMatrix, g.OutMatrix + Part(start), count * n, lanes);
        }

        for (var (first, i) = (group * ScanSizes.GroupChannels, 0); block.Start(sizes, group, first); first += lanes, i++)
        {
            var at = (((long)row * sizes.Channels) + first) * n;
            TransposeBack(carried + (i * size), g.Initial + at, n, lanes, block.Width);
            TransposeBack(gradDecay + (i * size), g.Decay + at, n, lanes, block.Width);
        }

        long Part(int time) => ((((long)group * sizes.Batch) + row) * sizes.Time + time) * n;
    }

    /// <summary>The states and decay factors of a chunk, from the state before it.</summary>
    private static void Recompute(
        ScanSizes sizes, ScanPointers p, int row, int start, int count, int first, Block block, float* states, float* factors, float* decay)
    {
        var size = sizes.StateSize * TLane.Count;
        for (var i = 0; i < count; i++)
        {
            var at = ((((long)row * sizes.Time) + start + i) * sizes.Channels) + first;
            var matrix = p.InMatrix + ((((long)row * sizes.Time) + start + i) * sizes.StateSize);
            var step = block.Load(p.Step + at, 0);
            Copy(states + (i * size), states + ((i + 1) * size), size);
            Advance(states + ((i + 1) * size), decay, factors + (i * size), step, step * block.Load(p.Input + at, 1), matrix, matrix, sizes.StateSize);
        }
    }

    /// <summary>
    /// One step for one block: h = exp(step A) h + driven B. Returns C h; keeps the factors where asked to.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLane Advance(float* state, float* decay, float* factors, TLane step, TLane driven, float* inMatrix, float* outMatrix, int n)
    {
        var lanes = TLane.Count;
        var y = TLane.Zero;
        for (var i = 0; i < n; i++)
        {
            var factor = LaneMath.Exp(step * TLane.Load(decay + (i * lanes)));
            var h = TLane.MultiplyAdd(factor, TLane.Load(state + (i * lanes)), driven * TLane.Broadcast(inMatrix[i]));
            TLane.Store(h, state + (i * lanes));
            y = TLane.MultiplyAdd(h, TLane.Broadcast(outMatrix[i]), y);
            if (factors != null)
            {
                TLane.Store(factor, factors + (i * lanes));
            }
        }

        return y;
    }

    /// <summary>The steps of a chunk backwards: with dh the gradient of h_t, a = exp(step A): dh += C dy, d(step) += dh h_(t-1) a A + dh u B, dh = a dh.</summary>
    private static void BackwardChunk(
        ScanSizes sizes, ScanPointers p, ScanGradients g, int row, int start, int count, int first, Block block,
        float* states, float* factors, float* decay, float* carried, float* gradDecay, float* sumInMatrix, float* sumOutMatrix)
    {
        var (lanes, n) = (TLane.Count, sizes.StateSize);
        var size = n * lanes;
        for (var i = count - 1; i >= 0; i--)
        {
            var at = ((((long)row * sizes.Time) + start + i) * sizes.Channels) + first;
            var matrix = (((long)row * sizes.Time) + start + i) * n;
            var step = block.Load(p.Step + at, 0);
            var input = block.Load(p.Input + at, 1);
            var gradY = block.Load(p.Y + at, 2);
            var driven = step * input;
            var (gradStep, gradDriven) = (TLane.Zero, TLane.Zero);
            float* before = states + (i * size), after = before + size, factor = factors + (i * size);
            float* sumIn = sumInMatrix + (i * size), sumOut = sumOutMatrix + (i * size);
            for (var s = 0; s < size; s += lanes)
            {
                var dh = TLane.MultiplyAdd(gradY, TLane.Broadcast(p.OutMatrix[matrix + (s / lanes)]), TLane.Load(carried + s));
                TLane.Store(TLane.MultiplyAdd(gradY, TLane.Load(after + s), TLane.Load(sumOut + s)), sumOut + s);
                TLane.Store(TLane.MultiplyAdd(dh, driven, TLane.Load(sumIn + s)), sumIn + s);
                gradDriven = TLane.MultiplyAdd(dh, TLane.Broadcast(p.InMatrix[matrix + (s / lanes)]), gradDriven);

                var passed = dh * TLane.Load(factor + s);
                var exponent = passed * TLane.Load(before + s);          // gradient of step * A
                gradStep = TLane.MultiplyAdd(exponent, TLane.Load(decay + s), gradStep);
                TLane.Store(TLane.MultiplyAdd(exponent, step, TLane.Load(gradDecay + s)), gradDecay + s);
                TLane.Store(passed, carried + s);
            }

            block.Store(gradDriven * step, g.Input + at);
            block.Store(TLane.MultiplyAdd(gradDriven, input, gradStep), g.Step + at);
        }
    }

    private static float* Boundary(ScanSizes sizes, float* group, int chunk, int first, int groupIndex) =>
        group + ((((long)chunk * ScanSizes.GroupChannels) + (first - (groupIndex * ScanSizes.GroupChannels))) * sizes.StateSize);

    /// <summary>[channels, N] to [N, lanes]; missing channels are zero.</summary>
    private static void Transpose(float* source, float* target, int n, int lanes, int width)
    {
        for (var i = 0; i < n; i++)
        {
            for (var lane = 0; lane < lanes; lane++)
            {
                target[(i * lanes) + lane] = lane < width ? source[(lane * n) + i] : 0;
            }
        }
    }

    private static void TransposeBack(float* source, float* target, int n, int lanes, int width)
    {
        for (var lane = 0; lane < width; lane++)
        {
            for (var i = 0; i < n; i++)
            {
                target[(lane * n) + i] = source[(i * lanes) + lane];
            }
        }
    }

    private static void SumLanes(float* source, float* target, int count, int lanes)
    {
        for (var i = 0; i < count; i++)
        {
            target[i] = TLane.Sum(TLane.Load(source + (i * lanes)));
        }
    }

    private static void Copy(float* source, float* target, int count) => new Span<float>(source, count).CopyTo(new Span<float>(target, count));

    private static void Clear(float* target, int count) => new Span<float>(target, count).Clear();

    /// <summary>The lanes of one block of channels: whole registers, or a part of one at the end of the channels, by way of a buffer.</summary>
    private sealed class Block(Scratch scratch, int lanes)
    {
        private readonly float* buffer = scratch.Take(3 * lanes);

        /// <summary>Channels of the block.</summary>
        public int Width { get; private set; }

        /// <summary>Moves to the block at a channel; false past the end of the group.</summary>
        public bool Start(ScanSizes sizes, int group, int first)
        {
            Width = Math.Min(lanes, sizes.Channels - first);
            return first < Math.Min((group + 1) * ScanSizes.GroupChannels, sizes.Channels);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public TLane Load(float* source, int slot)
        {
            if (Width == lanes)
            {
                return TLane.Load(source);
            }

            var part = buffer + (slot * lanes);
            Clear(part, lanes);
            Copy(source, part, Width);
            return TLane.Load(part);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public void Store(TLane value, float* target)
        {
            if (Width == lanes)
            {
                TLane.Store(value, target);
                return;
            }

            TLane.Store(value, buffer);
            Copy(buffer, target, Width);
        }
    }

    /// <summary>Aligned memory for one task.</summary>
    private sealed class Scratch(int count) : IDisposable
    {
        private const int Alignment = 64;
        private readonly float* memory = (float*)NativeMemory.AlignedAlloc((nuint)count * sizeof(float), Alignment);
        private int used;

        public float* Take(int floats)
        {
            var taken = memory + used;
            used += floats;
            return used <= count ? taken : throw new InvalidOperationException($"SelectiveScan: scratch of {count} floats is too small for {used}.");
        }

        public void Dispose() => NativeMemory.AlignedFree(memory);
    }
}
