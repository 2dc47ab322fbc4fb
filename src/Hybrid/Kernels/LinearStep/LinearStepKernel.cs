using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Weights as they are stored, read as float32 lanes.</summary>
internal unsafe interface IStoredWeights
{
    /// <summary>Bytes of one weight.</summary>
    static abstract int Size { get; }

    static abstract TLane Load<TLane>(byte* row, int index)
        where TLane : struct, ILane<TLane>;

    static abstract float Load(byte* row, int index);
}

internal readonly unsafe struct Float32Weights : IStoredWeights
{
    public static int Size => sizeof(float);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Load<TLane>(byte* row, int index)
        where TLane : struct, ILane<TLane> => TLane.Load((float*)row + index);

    public static float Load(byte* row, int index) => ((float*)row)[index];
}

internal readonly unsafe struct BFloat16Weights : IStoredWeights
{
    public static int Size => sizeof(ushort);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Load<TLane>(byte* row, int index)
        where TLane : struct, ILane<TLane> => TLane.LoadBFloat16((ushort*)row + index);

    public static float Load(byte* row, int index) =>
        BitConverter.Int32BitsToSingle(((ushort*)row)[index] << BFloat16.Shift);
}

/// <summary>Sizes and addresses of y = x W^T + b + r: x [rows, K], W [outputs, K], b [outputs] or null, r [rows, outputs] or null, y like r.</summary>
internal unsafe struct LinearStepSizes
{
    /// <summary>Bytes of weights of one part: enough to hide what a part costs, few enough to share a small matrix among threads.</summary>
    private const int PartBytes = 64 * 1024;

    public float* Input;
    public byte* Weights;
    public float* Bias;
    public float* Residual;
    public float* Output;
    public int Rows;
    public int Width;
    public int Outputs;

    /// <summary>Rows of W in a part.</summary>
    public readonly int PartOutputs(int weightSize) => Math.Max(1, PartBytes / (Width * weightSize));

    public readonly int Parts(int weightSize) => (Outputs + PartOutputs(weightSize) - 1) / PartOutputs(weightSize);
}

/// <summary>
/// Every row of W is read once, from its first element to its last, and multiplied with all rows of x while it is in the cache: the memory
/// sets the pace. The order of each sum depends on K alone.
/// </summary>
internal unsafe struct LinearStepKernel<TLane, TWeights>(LinearStepSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
    where TWeights : struct, IStoredWeights
{
    private readonly LinearStepSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Run(int part)
    {
        var first = part * sizes.PartOutputs(TWeights.Size);
        var end = Math.Min(first + sizes.PartOutputs(TWeights.Size), sizes.Outputs);
        for (var output = first; output < end; output++)
        {
            var weights = sizes.Weights + ((long)output * sizes.Width * TWeights.Size);
            var bias = sizes.Bias == null ? 0 : sizes.Bias[output];
            for (var row = 0; row < sizes.Rows; row++)
            {
                var sum = Dot(sizes.Input + ((long)row * sizes.Width), weights, sizes.Width);
                var at = ((long)row * sizes.Outputs) + output;
                sizes.Output[at] = sum + bias + (sizes.Residual == null ? 0 : sizes.Residual[at]);
            }
        }
    }

    /// <summary>Sum of x[k] w[k]: four registers of partial sums, so that an addition need not wait for the one before it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Dot(float* x, byte* weights, int width)
    {
        var lanes = TLane.Count;
        var (a, b, c, d) = (TLane.Zero, TLane.Zero, TLane.Zero, TLane.Zero);
        var k = 0;
        for (; k <= width - (4 * lanes); k += 4 * lanes)
        {
            a = TLane.MultiplyAdd(TLane.Load(x + k), TWeights.Load<TLane>(weights, k), a);
            b = TLane.MultiplyAdd(TLane.Load(x + k + lanes), TWeights.Load<TLane>(weights, k + lanes), b);
            c = TLane.MultiplyAdd(TLane.Load(x + k + (2 * lanes)), TWeights.Load<TLane>(weights, k + (2 * lanes)), c);
            d = TLane.MultiplyAdd(TLane.Load(x + k + (3 * lanes)), TWeights.Load<TLane>(weights, k + (3 * lanes)), d);
        }

        for (; k <= width - lanes; k += lanes)
        {
            a = TLane.MultiplyAdd(TLane.Load(x + k), TWeights.Load<TLane>(weights, k), a);
        }

        var sum = TLane.Sum(a + b + (c + d));
        for (; k < width; k++)
        {
            sum += x[k] * TWeights.Load(weights, k);
        }

        return sum;
    }
}
