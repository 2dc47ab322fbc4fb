using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// A scan of one batch row and one group of channels, step by step along the rows of the tensors. Calls are few and long, so both passes
/// are compiled in full at once instead of after some dozens of calls.
/// </summary>
internal static unsafe class ChannelScanKernel<TLane, TCell>
    where TLane : struct, ILane<TLane>
    where TCell : unmanaged, IChannelCell
{
    private const int K = ChannelScanSizes.ChunkSteps;

    /// <summary>Outputs and final states; keeps the states before every chunk for a backward pass.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Forward(TCell cell, in ChannelScanInputs p, in ChannelScanResults results, int row, int groupIndex)
    {
        var group = new Group(p.Sizes, row, groupIndex);
        var inputs = stackalloc float*[ChannelScanSizes.MostInputs];
        var states = stackalloc float[(ChannelScanSizes.MostStates + ChannelScanSizes.MostConstants + ChannelScanSizes.WorkRows) * group.Stride];
        var constants = states + (ChannelScanSizes.MostStates * group.Stride);
        LoadConstants(p, group, constants);
        LoadStates(p, group, states);
        var step = new ChannelStep<TLane>
        {
            Count = group.Count, Stride = group.Stride, Inputs = inputs, Constants = constants, Before = states, After = states,
            Work = constants + (ChannelScanSizes.MostConstants * group.Stride),
        };
        for (var t = 0; t < p.Sizes.Time; t++)
        {
            if (results.Boundaries != null && t % K == 0)
            {
                LaneMemory.Copy(states, group.Boundary(p.Sizes, results.Boundaries, t / K), group.Size);
            }

            At(p, group, t, ref step);
            if (step.Restarts)
            {
                Renew(group, states);
            }

            step.Output = results.Y.At(row, t) + group.First;
            cell.Forward(step);
        }

        for (var state = 0; state < TCell.States; state++)
        {
            LaneMemory.Copy(states + (state * group.Stride), results.Final[state] + group.ChannelAt, group.Count);
        }
    }

    /// <summary>
    /// All gradients. Chunks are taken from the last to the first; the states within a chunk are computed again from those before it, so
    /// that they are never stored for all of time.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Backward(TCell cell, in ChannelScanInputs p, in ChannelScanGradients g, int row, int groupIndex)
    {
        var group = new Group(p.Sizes, row, groupIndex);
        float** inputs = stackalloc float*[ChannelScanSizes.MostInputs], gradInputs = stackalloc float*[ChannelScanSizes.MostInputs];
        var constantSize = p.Sizes.Constants * group.Stride;
        using var scratch = new Scratch(((K + 3) * group.Size) + (2 * constantSize) + ((ChannelScanSizes.WorkRows + 1) * group.Stride));
        float* states = scratch.Take((K + 1) * group.Size), fresh = scratch.Take(group.Size), gradStates = scratch.Take(group.Size);
        float* constants = scratch.Take(constantSize), gradConstants = scratch.Take(constantSize);
        float* work = scratch.Take(ChannelScanSizes.WorkRows * group.Stride), zeros = scratch.Take(group.Stride);
        LoadConstants(p, group, constants);
        LaneMemory.Clear(zeros, group.Stride);
        LaneMemory.Clear(gradConstants, constantSize);
        LaneMemory.Clear(gradStates, group.Size);
        Renew(group, fresh);
        for (var state = 0; state < TCell.States && g.Final[state] != null; state++)
        {
            LaneMemory.Copy(g.Final[state] + group.ChannelAt, gradStates + (state * group.Stride), group.Count);
        }

        var step = new ChannelStep<TLane>
        {
            Count = group.Count, Stride = group.Stride, Inputs = inputs, GradInputs = gradInputs, Constants = constants, GradConstants = gradConstants,
            GradStates = gradStates, Work = work,
        };
        for (var chunk = p.Sizes.Chunks - 1; chunk >= 0; chunk--)
        {
            var (start, count) = (chunk * K, Math.Min(K, p.Sizes.Time - (chunk * K)));
            LaneMemory.Copy(group.Boundary(p.Sizes, g.Boundaries, chunk), states, group.Size);
            for (var i = 0; i < count; i++)
            {
                At(p, group, start + i, ref step);
                step.Before = step.Restarts ? fresh : states + (i * group.Size);
                step.After = states + ((i + 1) * group.Size);
                cell.Advance(step);
            }

            for (var i = count - 1; i >= 0; i--)
            {
                At(p, group, start + i, ref step);
                step.Before = step.Restarts ? fresh : states + (i * group.Size);
                step.After = states + ((i + 1) * group.Size);
                for (var input = 0; input < p.Sizes.Inputs; input++)
                {
                    gradInputs[input] = g.Inputs[input].Exists ? g.Inputs[input].At(row, start + i) + group.First : null;
                }

                step.GradOutput = g.Y.Exists ? g.Y.At(row, start + i) + group.First : zeros;
                cell.Backward(step);
                if (step.Restarts)
                {
                    LaneMemory.Clear(gradStates, group.Size);
                }
            }
        }

        for (var constant = 0; constant < p.Sizes.Constants; constant++)
        {
            LaneMemory.Copy(gradConstants + (constant * group.Stride), g.Constants[constant] + group.ChannelAt, group.Count);
        }

        for (var state = 0; state < TCell.States && g.Initial[state] != null; state++)
        {
            LaneMemory.Copy(gradStates + (state * group.Stride), g.Initial[state] + group.ChannelAt, group.Count);
        }
    }

    private static void At(in ChannelScanInputs p, Group group, int time, ref ChannelStep<TLane> step)
    {
        (step.IsReal, step.Restarts) = (p.IsReal(group.Row, time), p.Restarts(group.Row, time));
        for (var input = 0; input < p.Sizes.Inputs; input++)
        {
            step.Inputs[input] = p.Inputs[input].Exists ? p.Inputs[input].At(group.Row, time) + group.First : null;
        }
    }

    private static void LoadConstants(in ChannelScanInputs p, Group group, float* target)
    {
        for (var constant = 0; constant < p.Sizes.Constants; constant++)
        {
            LaneMemory.Clear(target + (constant * group.Stride), group.Stride);
            LaneMemory.Copy(p.Constants[constant] + group.First, target + (constant * group.Stride), group.Count);
        }
    }

    private static void LoadStates(in ChannelScanInputs p, Group group, float* target)
    {
        Renew(group, target);
        for (var state = 0; state < TCell.States && p.Initial[state] != null; state++)
        {
            LaneMemory.Copy(p.Initial[state] + group.ChannelAt, target + (state * group.Stride), group.Count);
        }
    }

    private static void Renew(Group group, float* states)
    {
        for (var state = 0; state < TCell.States; state++)
        {
            new Span<float>(states + (state * group.Stride), group.Stride).Fill(TCell.Fresh(state));
        }
    }

    /// <summary>The part of the work that one call does.</summary>
    private readonly struct Group
    {
        private readonly int index;

        public Group(in ChannelScanSizes sizes, int row, int groupIndex)
        {
            (Row, First) = (row, groupIndex * sizes.GroupChannels);
            Count = Math.Min(sizes.GroupChannels, sizes.Channels - First);
            Stride = (Count + TLane.Count - 1) / TLane.Count * TLane.Count;
            ChannelAt = ((long)row * sizes.Channels) + First;
            index = (row * sizes.Groups) + groupIndex;
        }

        /// <summary>Batch row.</summary>
        public int Row { get; }

        /// <summary>First channel.</summary>
        public int First { get; }

        public int Count { get; }

        /// <summary>Channels, rounded up to whole registers.</summary>
        public int Stride { get; }

        /// <summary>Floats of the group's states.</summary>
        public int Size => TCell.States * Stride;

        /// <summary>Where the group begins in [B, E].</summary>
        public long ChannelAt { get; }

        /// <summary>Where the group's states before a chunk are kept.</summary>
        public float* Boundary(in ChannelScanSizes sizes, float* boundaries, int chunk) =>
            boundaries + ((((long)index * sizes.Chunks) + chunk) * TCell.States * sizes.GroupChannels);
    }
}
