using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of a rotation of x [B, H, T, K], float32 with the last dimension contiguous.</summary>
internal unsafe struct RotationSizes
{
    /// <summary>Elements of a part, so that few tokens stay on one thread.</summary>
    private const int PartElements = 32 * 1024;

    public float* Input;
    public float* Output;
    public float* Cos;
    public float* Sin;

    /// <summary>Elements between rows, heads and tokens; 0 where rows or heads share their angles.</summary>
    public (long Row, long Head, long Token) InputStrides;
    public (long Row, long Head, long Token) OutputStrides;
    public (long Row, long Head, long Token) CosStrides;
    public (long Row, long Head, long Token) SinStrides;
    public long Vectors;
    public int Heads;
    public int Time;
    public int Width;

    /// <summary>Half of the channels that turn.</summary>
    public int Half;

    /// <summary>True turns back.</summary>
    public bool Inverse;

    public readonly long PartVectors => Math.Max(1, PartElements / Width);

    public readonly int Parts => (int)((Vectors + PartVectors - 1) / PartVectors);
}

/// <summary>Channels i and i + R/2 turn: <c>y_i = x_i cos - x_(i + R/2) sin</c>, <c>y_(i + R/2) = x_(i + R/2) cos + x_i sin</c>. In place too.</summary>
internal readonly unsafe struct RotationKernel<TLane>(RotationSizes sizes) : IPartedWork
    where TLane : struct, ILane<TLane>
{
    private readonly RotationSizes sizes = sizes;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Run(int part)
    {
        var end = Math.Min((part + 1) * sizes.PartVectors, sizes.Vectors);
        for (var vector = part * sizes.PartVectors; vector < end; vector++)
        {
            var place = (Row: vector / sizes.Time / sizes.Heads, Head: vector / sizes.Time % sizes.Heads, Token: vector % sizes.Time);
            Turn(
                sizes.Input + Offset(sizes.InputStrides, place),
                sizes.Cos + Offset(sizes.CosStrides, place),
                sizes.Sin + Offset(sizes.SinStrides, place),
                sizes.Output + Offset(sizes.OutputStrides, place));
        }
    }

    private static long Offset((long Row, long Head, long Token) strides, (long Row, long Head, long Token) place) =>
        (strides.Row * place.Row) + (strides.Head * place.Head) + (strides.Token * place.Token);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Turn(float* x, float* cos, float* sin, float* y)
    {
        var (half, lanes) = (sizes.Half, TLane.Count);
        var sign = TLane.Broadcast(sizes.Inverse ? -1 : 1);
        var i = 0;
        for (; i <= half - lanes; i += lanes)
        {
            Turn(x + i, cos + i, sin + i, y + i, half, sign, default(WholeLanes));
        }

        if (i < half)
        {
            Turn(x + i, cos + i, sin + i, y + i, half, sign, new FirstLanes(half - i));
        }

        if (x != y)
        {
            LaneMemory.Copy(x + (2 * half), y + (2 * half), sizes.Width - (2 * half));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Turn<TEdge>(float* x, float* cos, float* sin, float* y, int half, TLane sign, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var (first, second) = (edge.Load<TLane>(x), edge.Load<TLane>(x + half));
        var (c, s) = (edge.Load<TLane>(cos), edge.Load<TLane>(sin) * sign);
        edge.Store((first * c) - (second * s), y);
        edge.Store(TLane.MultiplyAdd(second, c, first * s), y + half);
    }
}
