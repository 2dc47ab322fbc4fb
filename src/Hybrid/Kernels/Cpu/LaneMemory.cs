using System.Runtime.CompilerServices;

namespace Hybrid.Kernels.Cpu;

/// <summary>Registers from and to rows of channels whose end need not fill one.</summary>
internal static unsafe class LaneMemory
{
    /// <summary>Loads the first <paramref name="width"/> lanes, the others as zero; all of them where the width is no less.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLane Load<TLane>(float* source, int width)
        where TLane : struct, ILane<TLane> => width >= TLane.Count ? TLane.Load(source) : LoadPart<TLane>(source, width);

    /// <summary>Stores the first <paramref name="width"/> lanes, or all of them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TLane>(TLane value, float* target, int width)
        where TLane : struct, ILane<TLane>
    {
        if (width >= TLane.Count)
        {
            TLane.Store(value, target);
        }
        else
        {
            StorePart(value, target, width);
        }
    }

    /// <summary>[channels, N] to [N, lanes], times a factor; missing channels are zero.</summary>
    public static void Transpose<TLane>(float* source, float* target, int n, int width, float factor = 1)
        where TLane : struct, ILane<TLane>
    {
        for (var i = 0; i < n; i++)
        {
            for (var lane = 0; lane < TLane.Count; lane++)
            {
                target[(i * TLane.Count) + lane] = lane < width ? source[(lane * n) + i] * factor : 0;
            }
        }
    }

    /// <summary>[N, lanes] to [channels, N].</summary>
    public static void TransposeBack<TLane>(float* source, float* target, int n, int width)
        where TLane : struct, ILane<TLane>
    {
        for (var lane = 0; lane < Math.Min(width, TLane.Count); lane++)
        {
            for (var i = 0; i < n; i++)
            {
                target[(lane * n) + i] = source[(i * TLane.Count) + lane];
            }
        }
    }

    /// <summary>Some rows as columns: target[j, i] = source[i, j].</summary>
    /// <param name="source">Rows, each so many floats after the one before.</param>
    /// <param name="sourceStride">That many.</param>
    /// <param name="target">Rows out.</param>
    /// <param name="targetStride">From one of them to the next.</param>
    /// <param name="rows">Rows of the source.</param>
    /// <param name="columns">Columns of the source.</param>
    /// <param name="filled">Elements of a target row; those after <paramref name="rows"/> become zero.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Turn(float* source, nint sourceStride, float* target, nint targetStride, int rows, int columns, int filled)
    {
        for (var j = 0; j < columns; j++)
        {
            float* from = source + j, to = target + (j * targetStride);
            for (var i = 0; i < rows; i++, from += sourceStride)
            {
                to[i] = *from;
            }

            Clear(to + rows, filled - rows);
        }
    }

    /// <summary>The first lane.</summary>
    public static float First<TLane>(TLane value)
        where TLane : struct, ILane<TLane>
    {
        var buffer = stackalloc float[TLane.Count];
        TLane.Store(value, buffer);
        return buffer[0];
    }

    public static void Copy(float* source, float* target, int count) => new Span<float>(source, count).CopyTo(new Span<float>(target, count));

    public static void Clear(float* target, int count) => new Span<float>(target, count).Clear();

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static TLane LoadPart<TLane>(float* source, int width)
        where TLane : struct, ILane<TLane>
    {
        var buffer = stackalloc float[TLane.Count];
        Clear(buffer, TLane.Count);
        Copy(source, buffer, width);
        return TLane.Load(buffer);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void StorePart<TLane>(TLane value, float* target, int width)
        where TLane : struct, ILane<TLane>
    {
        var buffer = stackalloc float[TLane.Count];
        TLane.Store(value, buffer);
        Copy(buffer, target, width);
    }
}
