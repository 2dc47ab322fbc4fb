using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of the rule of one decoding step of B sequences; all memory is contiguous float32.</summary>
internal unsafe struct DeltaStepSizes
{
    public int Batch;
    public int KeyHeads;

    /// <summary>Value heads H that share a key head.</summary>
    public int Shared;
    public int KeyWidth;
    public int ValueWidth;

    /// <summary>[all q; all k; all v] after the convolution: [B, 2 K key heads + H V].</summary>
    public float* Convolved;

    /// <summary>b and a of each key head: [B, key heads, 2, shared].</summary>
    public float* Gates;

    /// <summary>A_log [H] and dt_bias [H].</summary>
    public float* DecayLog;
    public float* StepBias;

    /// <summary>The state S [B, H, K, V], which the step changes in place.</summary>
    public float* State;

    /// <summary>o [B, H V].</summary>
    public float* Output;

    public readonly int Heads => KeyHeads * Shared;

    public readonly int KeyChannels => KeyHeads * KeyWidth;

    public readonly int ValueChannels => Heads * ValueWidth;

    public readonly int Convolutions => (2 * KeyChannels) + ValueChannels;
}

/// <summary>
/// One value head: beta = sigmoid(b), g = -exp(A_log) softplus(a + dt_bias), q and k of unit length, then
/// <c>S = exp(g) S + k beta (v - exp(g) S^T k)^T</c>, <c>o = S^T q / sqrt(K)</c>. Rows of the state are read one after the other, as they lie in
/// memory: once for what is held for the key, once to write and read out.
/// </summary>
internal readonly unsafe struct DeltaStepKernel<TLane>(DeltaStepSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    /// <summary>Values that are worked on at once, so that what is summed over keys stays in the first cache.</summary>
    private const int BlockValues = 256;

    private readonly DeltaStepSizes sizes = sizes;

    public void Run(int part)
    {
        var (row, head) = (part / sizes.Heads, part % sizes.Heads);
        var (keyHead, width) = (head / sizes.Shared, sizes.ValueWidth);
        var convolved = sizes.Convolved + ((long)row * sizes.Convolutions);
        var query = convolved + (keyHead * sizes.KeyWidth);
        var key = query + sizes.KeyChannels;
        var value = convolved + (2 * sizes.KeyChannels) + (head * width);
        var state = sizes.State + ((long)part * sizes.KeyWidth * width);
        var output = sizes.Output + ((long)row * sizes.ValueChannels) + (head * width);

        var gates = sizes.Gates + (((long)row * sizes.KeyHeads) + keyHead) * 2 * sizes.Shared + (head % sizes.Shared);
        var strength = LaneMemory.First(LaneMath.Sigmoid(TLane.Broadcast(gates[0])));
        var step = LaneMath.Softplus(TLane.Broadcast(gates[sizes.Shared] + sizes.StepBias[head]));
        var decay = LaneMemory.First(LaneMath.Exp(TLane.Zero - (step * LaneMath.Exp(TLane.Broadcast(sizes.DecayLog[head])))));
        var (readFactor, keyFactor) = (InverseNorm(query) / MathF.Sqrt(sizes.KeyWidth), InverseNorm(key));
        for (var first = 0; first < width; first += BlockValues)
        {
            Advance(state + first, query, key, value + first, output + first, Math.Min(BlockValues, width - first), decay, strength, readFactor, keyFactor);
        }
    }

    /// <summary>Some values of the head.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Advance(
        float* state, float* query, float* key, float* value, float* output, int count, float decay, float strength, float readFactor, float keyFactor)
    {
        float* held = stackalloc float[BlockValues], read = stackalloc float[BlockValues];
        LaneMemory.Clear(held, BlockValues);
        LaneMemory.Clear(read, BlockValues);
        for (var i = 0; i < sizes.KeyWidth; i++)
        {
            var row = state + ((long)i * sizes.ValueWidth);
            var factor = TLane.Broadcast(key[i]);
            for (var v = 0; v < count; v += TLane.Count)
            {
                TLane.Store(TLane.MultiplyAdd(factor, LaneMemory.Load<TLane>(row + v, count - v), TLane.Load(held + v)), held + v);
            }
        }

        // What is written, with one factor of the key, so that the other can stay as it is.
        for (var v = 0; v < count; v++)
        {
            held[v] = strength * keyFactor * (value[v] - (decay * keyFactor * held[v]));
        }

        var keep = TLane.Broadcast(decay);
        for (var i = 0; i < sizes.KeyWidth; i++)
        {
            var row = state + ((long)i * sizes.ValueWidth);
            var (write, reading) = (TLane.Broadcast(key[i]), TLane.Broadcast(query[i]));
            for (var v = 0; v < count; v += TLane.Count)
            {
                var next = TLane.MultiplyAdd(keep, LaneMemory.Load<TLane>(row + v, count - v), write * TLane.Load(held + v));
                LaneMemory.Store(next, row + v, count - v);
                TLane.Store(TLane.MultiplyAdd(next, reading, TLane.Load(read + v)), read + v);
            }
        }

        for (var v = 0; v < count; v++)
        {
            output[v] = read[v] * readFactor;
        }
    }

    private float InverseNorm(float* vector) =>
        1 / MathF.Sqrt(LinearStepKernel<TLane, Float32Weights>.Dot(vector, (byte*)vector, sizes.KeyWidth) + (float)GatedDelta.NormEpsilon);
}
