using System.Runtime.CompilerServices;

namespace Hybrid.Kernels.Cpu;

/// <summary>What products of a chunk need done to their factors.</summary>
internal static unsafe class LaneRows<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>target = source with each row times a factor; they may be the same.</summary>
    /// <param name="source">First row.</param>
    /// <param name="stride">From one row of the source to the next.</param>
    /// <param name="factors">One a row.</param>
    /// <param name="target">Rows out.</param>
    /// <param name="rows">Number of rows.</param>
    /// <param name="columns">Elements of a row; no others are read or written.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Scale(float* source, nint stride, float* factors, Rows target, int rows, int columns)
    {
        for (var i = 0; i < rows; i++)
        {
            var factor = TLane.Broadcast(factors[i]);
            float* from = source + (i * stride), to = target.At(i);
            for (var column = 0; column < columns; column += TLane.Count)
            {
                LaneMemory.Store(LaneMemory.Load<TLane>(from + column, columns - column) * factor, to + column, columns - column);
            }
        }
    }

    /// <summary>Rows of whole registers with each column times a factor, in place.</summary>
    public static void ScaleColumns(Rows target, float* factors, int rows, int columns)
    {
        for (var i = 0; i < rows; i++)
        {
            Multiply(target.At(i), factors, target.At(i), columns);
        }
    }

    /// <summary>target = left * right, element by element; whole registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply(float* left, float* right, float* target, int count)
    {
        for (var i = 0; i < count; i += TLane.Count)
        {
            TLane.Store(TLane.Load(left + i) * TLane.Load(right + i), target + i);
        }
    }

    /// <summary>sum = sum + left * right, element by element; whole registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void MultiplyAdd(float* left, float* right, float* sum, int count)
    {
        for (var i = 0; i < count; i += TLane.Count)
        {
            TLane.Store(TLane.MultiplyAdd(TLane.Load(left + i), TLane.Load(right + i), TLane.Load(sum + i)), sum + i);
        }
    }

    /// <summary>sum = sum + addend; whole registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Add(float* addend, float* sum, int count)
    {
        for (var i = 0; i < count; i += TLane.Count)
        {
            TLane.Store(TLane.Load(addend + i) + TLane.Load(sum + i), sum + i);
        }
    }

    /// <summary>For each column of two matrices, the sum over rows of their products.</summary>
    /// <param name="left">Rows of <paramref name="columns"/> elements, one after the other; whole registers.</param>
    /// <param name="right">The same.</param>
    /// <param name="rows">Number of rows.</param>
    /// <param name="columns">Elements of a row.</param>
    /// <param name="sums">Out, one a column.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void ColumnSums(float* left, float* right, int rows, int columns, float* sums)
    {
        for (var column = 0; column < columns; column += TLane.Count)
        {
            var sum = TLane.Zero;
            for (var i = column; i < rows * columns; i += columns)
            {
                sum = TLane.MultiplyAdd(TLane.Load(left + i), TLane.Load(right + i), sum);
            }

            TLane.Store(sum, sums + column);
        }
    }

    /// <summary>The sum of all products; an even number of registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static float Dot(float* left, float* right, long count)
    {
        var (even, odd) = (TLane.Zero, TLane.Zero);
        for (var i = 0L; i < count; i += 2 * TLane.Count)
        {
            even = TLane.MultiplyAdd(TLane.Load(left + i), TLane.Load(right + i), even);
            odd = TLane.MultiplyAdd(TLane.Load(left + i + TLane.Count), TLane.Load(right + i + TLane.Count), odd);
        }

        return TLane.Sum(even + odd);
    }

    /// <summary>target = source times a factor, filled up with zeros to whole registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Load(float* source, float factor, float* target, int width, int padded)
    {
        var scale = TLane.Broadcast(factor);
        for (var column = 0; column < padded; column += TLane.Count)
        {
            var value = column < width ? LaneMemory.Load<TLane>(source + column, width - column) * scale : TLane.Zero;
            TLane.Store(value, target + column);
        }
    }

    /// <summary>target = source times a factor, of a row that need not fill registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Store(float* source, float factor, float* target, int width)
    {
        var scale = TLane.Broadcast(factor);
        for (var column = 0; column < width; column += TLane.Count)
        {
            LaneMemory.Store(TLane.Load(source + column) * scale, target + column, width - column);
        }
    }
}
