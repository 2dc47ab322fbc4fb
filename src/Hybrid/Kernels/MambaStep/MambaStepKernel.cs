using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// The rest of a group of channels: delta = softplus(W_dt dt + b_dt), <c>h = exp(delta A) h + delta x B</c> with A = -exp(A_log),
/// <c>y = (C h + D x) SiLU(z)</c>. A register holds neighbouring states of one channel, as they lie in memory.
/// </summary>
internal readonly unsafe struct MambaScanStep<TLane>(MambaStepSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    private readonly MambaStepSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var (row, first, count) = sizes.Locate(part);
        var x = stackalloc float[MambaStepSizes.GroupChannels];
        var z = stackalloc float[MambaStepSizes.GroupChannels];
        var skip = stackalloc float[MambaStepSizes.GroupChannels];
        var delta = stackalloc float[MambaStepSizes.GroupChannels];
        var y = stackalloc float[MambaStepSizes.GroupChannels];
        Copy(sizes.Convolved + ((long)row * sizes.Channels) + first, x, count);
        Copy(sizes.Projected + (((2L * row) + 1) * sizes.Channels) + first, z, count);
        Copy(sizes.Skip + first, skip, count);
        StepSizes(sizes.Parts + ((long)row * sizes.PartWidth), first, count, delta);

        var inMatrix = sizes.Parts + ((long)row * sizes.PartWidth) + sizes.Rank;
        var state = sizes.State + ((((long)row * sizes.Channels) + first) * sizes.StateSize);
        var decayLog = sizes.DecayLog + ((long)first * sizes.StateSize);
        for (var channel = 0; channel < count; channel++)
        {
            var at = (long)channel * sizes.StateSize;
            y[channel] = Advance(state + at, decayLog + at, inMatrix, inMatrix + sizes.StateSize, delta[channel], delta[channel] * x[channel]);
        }

        for (var i = 0; i < count; i += TLane.Count)
        {
            var sum = TLane.MultiplyAdd(TLane.Load(skip + i), TLane.Load(x + i), TLane.Load(y + i));
            var gate = TLane.Load(z + i);
            TLane.Store(sum * (gate * LaneMath.Sigmoid(gate)), y + i);
        }

        Copy(y, sizes.Output + ((long)row * sizes.Channels) + first, count);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void StepSizes(float* dt, int first, int count, float* delta)
    {
        for (var channel = 0; channel < count; channel++)
        {
            var weights = sizes.StepWeight + ((long)(first + channel) * sizes.Rank);
            delta[channel] = LinearStepKernel<TLane, Float32Weights>.Dot(dt, (byte*)weights, sizes.Rank) + sizes.StepBias[first + channel];
        }

        var (min, max) = (TLane.Broadcast(sizes.StepMin), TLane.Broadcast(sizes.StepMax));
        for (var i = 0; i < count; i += TLane.Count)
        {
            var step = LaneMath.Softplus(TLane.Load(delta + i));
            step = TLane.WhereLess(step, min, min, step);
            TLane.Store(TLane.WhereLess(max, step, max, step), delta + i);
        }
    }

    /// <summary>The states of one channel; returns C h.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private float Advance(float* state, float* decayLog, float* inMatrix, float* outMatrix, float delta, float driven)
    {
        var (step, drive, negative) = (TLane.Broadcast(delta), TLane.Broadcast(driven), TLane.Broadcast(-1));
        var sum = TLane.Zero;
        var n = 0;
        for (; n <= sizes.StateSize - TLane.Count; n += TLane.Count)
        {
            var factor = LaneMath.Exp(step * (LaneMath.Exp(TLane.Load(decayLog + n)) * negative));
            var h = TLane.MultiplyAdd(factor, TLane.Load(state + n), drive * TLane.Load(inMatrix + n));
            TLane.Store(h, state + n);
            sum = TLane.MultiplyAdd(h, TLane.Load(outMatrix + n), sum);
        }

        var y = TLane.Sum(sum);
        for (; n < sizes.StateSize; n++)
        {
            state[n] = (MathF.Exp(-delta * MathF.Exp(decayLog[n])) * state[n]) + (driven * inMatrix[n]);
            y += state[n] * outMatrix[n];
        }

        return y;
    }

    private static void Copy(float* source, float* target, int count) => new Span<float>(source, count).CopyTo(new Span<float>(target, count));
}
