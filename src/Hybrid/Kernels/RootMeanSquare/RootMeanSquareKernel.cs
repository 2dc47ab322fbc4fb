using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of a norm of [rows, width], contiguous float32. The cut into parts depends on the sizes alone.</summary>
internal unsafe struct RootMeanSquareSizes
{
    /// <summary>Elements of a part, so that small norms stay on one thread.</summary>
    private const int PartElements = 32 * 1024;

    public float* Input;
    public float* Weight;
    public float* Output;
    public float* GradOutput;
    public float* GradInput;

    /// <summary>Each part's gradient of the weight: [parts, width].</summary>
    public float* GradWeight;
    public long Rows;
    public int Width;
    public float Epsilon;

    public readonly long PartRows => Math.Max(1, PartElements / Width);

    public readonly int Parts => (int)((Rows + PartRows - 1) / PartRows);

    public readonly (long First, long End) Locate(int part) => (part * PartRows, Math.Min((part + 1) * PartRows, Rows));
}

/// <summary>y = x r w with r = 1 / sqrt(mean(x^2) + eps).</summary>
internal readonly unsafe struct RootMeanSquareForward<TLane>(RootMeanSquareSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    private readonly RootMeanSquareSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var (first, end) = sizes.Locate(part);
        var (width, lanes) = (sizes.Width, TLane.Count);
        for (var row = first; row < end; row++)
        {
            var x = sizes.Input + (row * width);
            var y = sizes.Output + (row * width);
            var scale = Inverse(x, width, sizes.Epsilon);
            var factor = TLane.Broadcast(scale);
            var i = 0;
            for (; i <= width - lanes; i += lanes)
            {
                TLane.Store(TLane.Load(x + i) * factor * TLane.Load(sizes.Weight + i), y + i);
            }

            for (; i < width; i++)
            {
                y[i] = x[i] * scale * sizes.Weight[i];
            }
        }
    }

    /// <summary>r of a row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static float Inverse(float* x, int width, float epsilon) =>
        1 / MathF.Sqrt((LinearStepKernel<TLane, Float32Weights>.Dot(x, (byte*)x, width) / width) + epsilon);
}

/// <summary>
/// With n = x r and g = w dy: dx = r (g - n mean(g n)), dw = sum over rows of n dy. r is computed again, so nothing is kept but x.
/// </summary>
internal readonly unsafe struct RootMeanSquareBackward<TLane>(RootMeanSquareSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    private readonly RootMeanSquareSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var (first, end) = sizes.Locate(part);
        var width = sizes.Width;
        var gradWeight = sizes.GradWeight + ((long)part * width);
        new Span<float>(gradWeight, width).Clear();
        for (var row = first; row < end; row++)
        {
            var x = sizes.Input + (row * width);
            var gradient = sizes.GradOutput + (row * width);
            var scale = RootMeanSquareForward<TLane>.Inverse(x, width, sizes.Epsilon);
            var mean = WeightedDot(x, gradient) * scale / width;
            GradientOfRow(x, gradient, sizes.GradInput + (row * width), gradWeight, scale, mean);
        }
    }

    /// <summary>Sum of w dy x.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private float WeightedDot(float* x, float* gradient)
    {
        var lanes = TLane.Count;
        var (a, b) = (TLane.Zero, TLane.Zero);
        var i = 0;
        for (; i <= sizes.Width - (2 * lanes); i += 2 * lanes)
        {
            a = TLane.MultiplyAdd(TLane.Load(sizes.Weight + i) * TLane.Load(gradient + i), TLane.Load(x + i), a);
            b = TLane.MultiplyAdd(TLane.Load(sizes.Weight + i + lanes) * TLane.Load(gradient + i + lanes), TLane.Load(x + i + lanes), b);
        }

        var sum = TLane.Sum(a + b);
        for (; i < sizes.Width; i++)
        {
            sum += sizes.Weight[i] * gradient[i] * x[i];
        }

        return sum;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void GradientOfRow(float* x, float* gradient, float* gradInput, float* gradWeight, float scale, float mean)
    {
        var lanes = TLane.Count;
        var (factor, inner) = (TLane.Broadcast(scale), TLane.Broadcast(-mean));
        var i = 0;
        for (; i <= sizes.Width - lanes; i += lanes)
        {
            var (normal, dy) = (TLane.Load(x + i) * factor, TLane.Load(gradient + i));
            TLane.Store(TLane.MultiplyAdd(normal, inner, TLane.Load(sizes.Weight + i) * dy) * factor, gradInput + i);
            TLane.Store(TLane.MultiplyAdd(normal, dy, TLane.Load(gradWeight + i)), gradWeight + i);
        }

        for (; i < sizes.Width; i++)
        {
            var normal = x[i] * scale;
            gradInput[i] = ((sizes.Weight[i] * gradient[i]) - (normal * mean)) * scale;
            gradWeight[i] += normal * gradient[i];
        }
    }
}
