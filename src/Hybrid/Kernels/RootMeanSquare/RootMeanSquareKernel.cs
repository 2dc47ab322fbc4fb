using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of a norm of rows, float32. The cut into parts depends on the sizes alone.</summary>
internal unsafe struct RootMeanSquareSizes
{
    /// <summary>Elements of a part, so that small norms stay on one thread.</summary>
    private const int PartElements = 32 * 1024;

    public float* Input;
    public float* Gate;
    public float* Weight;
    public float* Output;
    public float* GradOutput;
    public float* GradInput;
    public float* GradGate;

    /// <summary>Each part's gradient of the weight: [parts, width].</summary>
    public float* GradWeight;

    /// <summary>Elements from one row to the next; all that is not listed is contiguous.</summary>
    public long InputStride;
    public long GateStride;
    public long GradOutputStride;
    public long Rows;
    public int Width;

    /// <summary>Channels of a row that are normalised together; a divisor of the width.</summary>
    public int GroupWidth;
    public float Epsilon;

    public readonly long PartRows => Math.Max(1, PartElements / Width);

    public readonly int Parts => (int)((Rows + PartRows - 1) / PartRows);

    public readonly (long First, long End) Locate(int part) => (part * PartRows, Math.Min((part + 1) * PartRows, Rows));
}

/// <summary>Where a gate z multiplies by SiLU(z).</summary>
internal interface INormGate
{
    /// <summary>The input of the norm.</summary>
    static abstract bool BeforeNorm { get; }

    /// <summary>Its result.</summary>
    static abstract bool AfterNorm { get; }
}

internal readonly struct NoGate : INormGate
{
    public static bool BeforeNorm => false;

    public static bool AfterNorm => false;
}

internal readonly struct GateBeforeNorm : INormGate
{
    public static bool BeforeNorm => true;

    public static bool AfterNorm => false;
}

internal readonly struct GateAfterNorm : INormGate
{
    public static bool BeforeNorm => false;

    public static bool AfterNorm => true;
}

/// <summary>
/// With u = x, or x SiLU(z) where the gate comes first: y = u r w with r = 1 / sqrt(mean(u^2) + eps), times SiLU(z) where it comes last.
/// </summary>
internal readonly unsafe struct RootMeanSquareForward<TLane, TGate>(RootMeanSquareSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
    where TGate : struct, INormGate
{
    private readonly RootMeanSquareSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var (first, end) = sizes.Locate(part);
        for (var row = first; row < end; row++)
        {
            for (var group = 0; group < sizes.Width; group += sizes.GroupWidth)
            {
                Normalise(
                    sizes.Input + (row * sizes.InputStride) + group,
                    sizes.Gate + (row * sizes.GateStride) + group,
                    sizes.Weight + group,
                    sizes.Output + (row * sizes.Width) + group,
                    sizes.GroupWidth,
                    sizes.Epsilon);
            }
        }
    }

    /// <summary>Normalises so many channels; y may be x.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Normalise(float* x, float* z, float* w, float* y, int width, float epsilon)
    {
        var lanes = TLane.Count;
        var u = x;
        float squares;
        if (TGate.BeforeNorm)
        {
            // u waits in y for its scale.
            u = y;
            var sum = TLane.Zero;
            var i = 0;
            for (; i <= width - lanes; i += lanes)
            {
                sum = Gated(x + i, z + i, y + i, sum, default(WholeLanes));
            }

            sum = i < width ? Gated(x + i, z + i, y + i, sum, new FirstLanes(width - i)) : sum;
            squares = TLane.Sum(sum);
        }
        else
        {
            squares = LinearStepKernel<TLane, Float32Weights>.Dot(x, (byte*)x, width);
        }

        var scale = TLane.Broadcast(1 / MathF.Sqrt((squares / width) + epsilon));
        var k = 0;
        for (; k <= width - lanes; k += lanes)
        {
            Scaled(u + k, z + k, w + k, y + k, scale, default(WholeLanes));
        }

        if (k < width)
        {
            Scaled(u + k, z + k, w + k, y + k, scale, new FirstLanes(width - k));
        }
    }

    /// <summary>Stores u and adds up its squares.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLane Gated<TEdge>(float* x, float* z, float* u, TLane sum, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var gate = edge.Load<TLane>(z);
        var value = edge.Load<TLane>(x) * (gate * LaneMath.Sigmoid(gate));
        edge.Store(value, u);
        return TLane.MultiplyAdd(value, value, sum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scaled<TEdge>(float* u, float* z, float* w, float* y, TLane scale, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var value = edge.Load<TLane>(u) * scale * edge.Load<TLane>(w);
        if (TGate.AfterNorm)
        {
            var gate = edge.Load<TLane>(z);
            value *= gate * LaneMath.Sigmoid(gate);
        }

        edge.Store(value, y);
    }
}

/// <summary>
/// With n = u r and d = dy, times SiLU(z) where the gate comes last: g = w d, du = r (g - n mean(g n)), dw = sum over rows of n d. A gate
/// before the norm gives dx = du SiLU(z) and dz = du x SiLU'(z), one after it dz = dy n w SiLU'(z). u and r are computed again, so nothing
/// is kept but the inputs; what the gate's exponential gives waits in the memory of dx and dz from the first pass over a row to the second.
/// </summary>
internal readonly unsafe struct RootMeanSquareBackward<TLane, TGate>(RootMeanSquareSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
    where TGate : struct, INormGate
{
    private readonly RootMeanSquareSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var (first, end) = sizes.Locate(part);
        var gradWeight = sizes.GradWeight + ((long)part * sizes.Width);
        new Span<float>(gradWeight, sizes.Width).Clear();
        for (var row = first; row < end; row++)
        {
            for (var group = 0; group < sizes.Width; group += sizes.GroupWidth)
            {
                var x = sizes.Input + (row * sizes.InputStride) + group;
                var z = sizes.Gate + (row * sizes.GateStride) + group;
                var dy = sizes.GradOutput + (row * sizes.GradOutputStride) + group;
                var dx = sizes.GradInput + (row * sizes.Width) + group;
                var dz = sizes.GradGate + (row * sizes.Width) + group;
                var (scale, mean) = Statistics(x, z, dy, sizes.Weight + group, dx, dz);
                Gradients(x, dy, sizes.Weight + group, dx, dz, gradWeight + group, scale, mean);
            }
        }
    }

    /// <summary>r, and mean(g n).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private (float Scale, float Mean) Statistics(float* x, float* z, float* dy, float* w, float* dx, float* dz)
    {
        var (width, lanes) = (sizes.GroupWidth, TLane.Count);
        var (squares, products) = (TLane.Zero, TLane.Zero);
        var i = 0;
        for (; i <= width - lanes; i += lanes)
        {
            var (u, g) = Weighted(x + i, z + i, dy + i, w + i, dx + i, dz + i, default(WholeLanes));
            (squares, products) = (TLane.MultiplyAdd(u, u, squares), TLane.MultiplyAdd(g, u, products));
        }

        if (i < width)
        {
            var (u, g) = Weighted(x + i, z + i, dy + i, w + i, dx + i, dz + i, new FirstLanes(width - i));
            (squares, products) = (TLane.MultiplyAdd(u, u, squares), TLane.MultiplyAdd(g, u, products));
        }

        var scale = 1 / MathF.Sqrt((TLane.Sum(squares) / width) + sizes.Epsilon);
        return (scale, TLane.Sum(products) * scale / width);
    }

    /// <summary>u and g. With a gate, dx is SiLU(z) after it, and dz what multiplies its slope there: x before the norm, dy after it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (TLane U, TLane G) Weighted<TEdge>(float* x, float* z, float* dy, float* w, float* dx, float* dz, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var (u, upstream) = (edge.Load<TLane>(x), edge.Load<TLane>(dy));
        var g = edge.Load<TLane>(w) * upstream;
        if (!TGate.BeforeNorm && !TGate.AfterNorm)
        {
            return (u, g);
        }

        var (silu, slope) = LaneMath.SiluAndSlope(edge.Load<TLane>(z));
        edge.Store(silu, dx);
        edge.Store(slope * (TGate.BeforeNorm ? u : upstream), dz);
        return TGate.BeforeNorm ? (u * silu, g) : (u, g * silu);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Gradients(float* x, float* dy, float* w, float* dx, float* dz, float* dw, float scale, float mean)
    {
        var (width, lanes) = (sizes.GroupWidth, TLane.Count);
        var (r, inner) = (TLane.Broadcast(scale), TLane.Broadcast(-mean));
        var i = 0;
        for (; i <= width - lanes; i += lanes)
        {
            Gradients(x + i, dy + i, w + i, dx + i, dz + i, dw + i, r, inner, default(WholeLanes));
        }

        if (i < width)
        {
            Gradients(x + i, dy + i, w + i, dx + i, dz + i, dw + i, r, inner, new FirstLanes(width - i));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Gradients<TEdge>(float* x, float* dy, float* w, float* dx, float* dz, float* dw, TLane r, TLane inner, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var (normal, d, weight) = (edge.Load<TLane>(x) * r, edge.Load<TLane>(dy), edge.Load<TLane>(w));
        var silu = TGate.BeforeNorm || TGate.AfterNorm ? edge.Load<TLane>(dx) : default;
        if (TGate.BeforeNorm)
        {
            normal *= silu;
        }

        if (TGate.AfterNorm)
        {
            edge.Store(edge.Load<TLane>(dz) * normal * weight, dz);
            d *= silu;
        }

        edge.Store(TLane.MultiplyAdd(normal, d, edge.Load<TLane>(dw)), dw);
        var gradient = TLane.MultiplyAdd(normal, inner, weight * d) * r;
        if (TGate.BeforeNorm)
        {
            edge.Store(gradient * edge.Load<TLane>(dz), dz);
            gradient *= silu;
        }

        edge.Store(gradient, dx);
    }
}
