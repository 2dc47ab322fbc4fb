using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of the gate of a few rows, and of the norm before or after it; all memory is float32.</summary>
internal unsafe struct GatedNormStepSizes
{
    public int Rows;

    /// <summary>Groups of neighbouring channels that are normalised apart.</summary>
    public int Groups;

    /// <summary>Channels of a group.</summary>
    public int Width;

    /// <summary>x and the result [rows, groups * width].</summary>
    public float* Input;
    public float* Output;

    /// <summary>z, before its SiLU, a row so many floats after the one before.</summary>
    public float* Gate;
    public long GateStride;

    /// <summary>Weights of the norm, those of a group so many floats after those of the one before; null for the gate alone.</summary>
    public float* Weight;
    public int WeightStride;
    public float Epsilon;

    /// <summary>True to normalise x and gate then, false to normalise what was gated.</summary>
    public bool NormBeforeGate;
}

/// <summary>A row: RMS(x) w SiLU(z), or RMS(x SiLU(z)) w, or x SiLU(z).</summary>
internal readonly unsafe struct GatedNormStep<TLane>(GatedNormStepSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    private readonly GatedNormStepSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var width = sizes.Width;
        for (var group = 0; group < sizes.Groups; group++)
        {
            var at = ((long)part * sizes.Groups * width) + ((long)group * width);
            float* x = sizes.Input + at, y = sizes.Output + at, z = sizes.Gate + (part * sizes.GateStride) + ((long)group * width);
            var weight = sizes.Weight == null ? null : sizes.Weight + (group * sizes.WeightStride);
            if (weight == null)
            {
                Gate(x, z, y, width);
            }
            else if (sizes.NormBeforeGate)
            {
                RootMeanSquareForward<TLane, GateAfterNorm>.Normalise(x, z, weight, y, width, sizes.Epsilon);
            }
            else
            {
                RootMeanSquareForward<TLane, GateBeforeNorm>.Normalise(x, z, weight, y, width, sizes.Epsilon);
            }
        }
    }

    private static void Gate(float* x, float* z, float* y, int width)
    {
        for (var i = 0; i < width; i += TLane.Count)
        {
            var gate = LaneMemory.Load<TLane>(z + i, width - i);
            LaneMemory.Store(LaneMemory.Load<TLane>(x + i, width - i) * (gate * LaneMath.Sigmoid(gate)), y + i, width - i);
        }
    }
}
