using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of the recurrence of one decoding step of B sequences; all memory is float32.</summary>
internal unsafe struct DualityStepSizes
{
    public int Batch;
    public int Heads;
    public int HeadWidth;
    public int Groups;
    public int StateSize;

    /// <summary>Limits of the step size after the softplus.</summary>
    public float StepMin;
    public float StepMax;

    /// <summary>[x; B; C] after the convolution: [B, H P + 2 G N].</summary>
    public float* Convolved;

    /// <summary>dt [B, H], a row so many floats after the one before, and its bias [H].</summary>
    public float* Step;
    public long StepStride;
    public float* StepBias;

    /// <summary>A_log [H] and D [H].</summary>
    public float* DecayLog;
    public float* Skip;

    /// <summary>The state S [B, H, P, N], which the step changes in place.</summary>
    public float* State;

    /// <summary>y [B, H P].</summary>
    public float* Output;

    public readonly int Inner => Heads * HeadWidth;

    public readonly int Convolutions => Inner + (2 * Groups * StateSize);
}

/// <summary>
/// One head: dt = clamp(softplus(dt + bias)), <c>S = exp(dt A) S + dt x B^T</c> with A = -exp(A_log), <c>y = S C + D x</c>. A register holds
/// neighbouring states of one channel, as they lie in memory.
/// </summary>
internal readonly unsafe struct DualityStepKernel<TLane>(DualityStepSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    private readonly DualityStepSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var (row, head) = (part / sizes.Heads, part % sizes.Heads);
        var (n, width) = (sizes.StateSize, sizes.HeadWidth);
        var convolved = sizes.Convolved + ((long)row * sizes.Convolutions);
        var x = convolved + (head * width);
        var inMatrix = convolved + sizes.Inner + (head / (sizes.Heads / sizes.Groups) * n);
        var outMatrix = inMatrix + (sizes.Groups * n);
        var state = sizes.State + ((long)part * width * n);
        var y = sizes.Output + ((long)row * sizes.Inner) + (head * width);

        var step = LaneMath.Softplus(TLane.Broadcast(sizes.Step[(row * sizes.StepStride) + head] + sizes.StepBias[head]));
        step = TLane.AtMost(TLane.Broadcast(sizes.StepMax), TLane.AtLeast(TLane.Broadcast(sizes.StepMin), step));
        var decay = LaneMath.Exp(TLane.Zero - (step * LaneMath.Exp(TLane.Broadcast(sizes.DecayLog[head]))));
        var (stepSize, factor) = (LaneMemory.First(step), LaneMemory.First(decay));
        for (var channel = 0; channel < width; channel++)
        {
            y[channel] = Advance(state + ((long)channel * n), inMatrix, outMatrix, decay, factor, stepSize * x[channel]) + (sizes.Skip[head] * x[channel]);
        }
    }

    /// <summary>The states of one channel; returns S C.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private float Advance(float* state, float* inMatrix, float* outMatrix, TLane decay, float factor, float driven)
    {
        var (drive, sum) = (TLane.Broadcast(driven), TLane.Zero);
        var n = 0;
        for (; n <= sizes.StateSize - TLane.Count; n += TLane.Count)
        {
            var next = TLane.MultiplyAdd(decay, TLane.Load(state + n), drive * TLane.Load(inMatrix + n));
            TLane.Store(next, state + n);
            sum = TLane.MultiplyAdd(next, TLane.Load(outMatrix + n), sum);
        }

        var y = TLane.Sum(sum);
        for (; n < sizes.StateSize; n++)
        {
            state[n] = (factor * state[n]) + (driven * inMatrix[n]);
            y += state[n] * outMatrix[n];
        }

        return y;
    }
}
