using System.Runtime.CompilerServices;

namespace Hybrid.Kernels.Cpu;

/// <summary>Elements of a matrix that are read one by one, each at first[row * Row + column * Column].</summary>
internal readonly unsafe struct Elements(float* first, nint row, nint column)
{
    public readonly float* First = first;
    public readonly nint Row = row;
    public readonly nint Column = column;

    /// <summary>The part that begins at an element.</summary>
    public Elements From(int row, int column) => new(First + (row * Row) + (column * Column), Row, Column);
}

/// <summary>Rows whose elements are next to each other, with room for whole pairs of registers.</summary>
internal readonly unsafe struct Rows(float* first, nint stride)
{
    public readonly float* First = first;
    public readonly nint Stride = stride;

    /// <summary>The rows from one on.</summary>
    public Rows From(int row) => new(At(row), Stride);

    public float* At(int row) => First + (row * Stride);

    /// <summary>The elements as the left factor of a product.</summary>
    public Elements Elements => new(First, Stride, 1);

    /// <summary>The transposed elements.</summary>
    public Elements Transposed => new(First, 1, Stride);
}

/// <summary>
/// Products of matrices that fit the cache, which is what a chunk of a recurrence is made of: every element of the left factor is
/// broadcast, rows of the right factor and of the result are registers. A tile of four rows by two registers stays in registers over the
/// whole depth; the order of each sum depends on the depth alone.
/// </summary>
internal static unsafe class LaneProduct<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>Rows of a tile.</summary>
    public const int TileRows = 4;

    /// <summary>Columns of a row so that it is made of whole pairs of registers.</summary>
    public static int Pad(int columns) => (columns + (2 * TLane.Count) - 1) / (2 * TLane.Count) * (2 * TLane.Count);

    /// <summary>c = a b; what c holds is not read.</summary>
    /// <param name="a">[rows, depth].</param>
    /// <param name="b">[depth, columns].</param>
    /// <param name="c">[rows, columns].</param>
    /// <param name="rows">Rows of a and c.</param>
    /// <param name="columns">Columns of b and c, padded.</param>
    /// <param name="depth">Terms of each sum.</param>
    public static void Set(Elements a, Rows b, Rows c, int rows, int columns, int depth) => Run(a, b, c, rows, columns, depth, null);

    /// <summary>c = keep c + a b.</summary>
    /// <param name="a">[rows, depth].</param>
    /// <param name="b">[depth, columns].</param>
    /// <param name="c">[rows, columns].</param>
    /// <param name="rows">Rows of a and c.</param>
    /// <param name="columns">Columns of b and c, padded.</param>
    /// <param name="depth">Terms of each sum.</param>
    /// <param name="keep">Factor of what c holds.</param>
    public static void Add(Elements a, Rows b, Rows c, int rows, int columns, int depth, float keep = 1) => Run(a, b, c, rows, columns, depth, &keep);

    /// <summary>
    /// c += a b for a lower triangular a, diagonal included. What lies above the diagonal is not read, and a row of c receives nothing of
    /// later rows of b, be they NaN.
    /// </summary>
    public static void Lower(Rows a, Rows b, Rows c, int rows, int columns)
    {
        for (var first = 0; first < rows; first += TileRows)
        {
            var count = Math.Min(TileRows, rows - first);
            Add(a.From(first).Elements, b, c.From(first), count, columns, first);
            for (var row = first; row < first + count; row++)
            {
                Add(a.Elements.From(row, first), b.From(first), c.From(row), 1, columns, row - first + 1);
            }
        }
    }

    /// <summary>c += a^T b for a lower triangular a, diagonal included; a row of c receives nothing of earlier rows of b.</summary>
    public static void LowerTransposed(Rows a, Rows b, Rows c, int rows, int columns)
    {
        for (var first = 0; first < rows; first += TileRows)
        {
            var count = Math.Min(TileRows, rows - first);
            var end = first + count;
            Add(a.Transposed.From(first, end), b.From(end), c.From(first), count, columns, rows - end);
            for (var row = first; row < end; row++)
            {
                Add(a.Transposed.From(row, row), b.From(row), c.From(row), 1, columns, end - row);
            }
        }
    }

    private static void Run(Elements a, Rows b, Rows c, int rows, int columns, int depth, float* keep)
    {
        for (var column = 0; column < columns; column += 2 * TLane.Count)
        {
            var row = 0;
            for (; row <= rows - TileRows; row += TileRows)
            {
                FourRows(a.First + (row * a.Row), a.Row, a.Column, b.First + column, b.Stride, c.At(row) + column, c.Stride, depth, keep);
            }

            for (; row < rows; row++)
            {
                OneRow(a.First + (row * a.Row), a.Column, b.First + column, b.Stride, c.At(row) + column, depth, keep);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FourRows(float* a, nint aRow, nint aColumn, float* b, nint bStride, float* c, nint cStride, int depth, float* keep)
    {
        var lanes = TLane.Count;
        var (c00, c01, c10, c11) = (TLane.Zero, TLane.Zero, TLane.Zero, TLane.Zero);
        var (c20, c21, c30, c31) = (TLane.Zero, TLane.Zero, TLane.Zero, TLane.Zero);
        float* a1 = a + aRow, a2 = a1 + aRow, a3 = a2 + aRow;
        for (var k = 0; k < depth; k++)
        {
            var (b0, b1) = (TLane.Load(b), TLane.Load(b + lanes));
            var x = TLane.Broadcast(*a);
            c00 = TLane.MultiplyAdd(x, b0, c00);
            c01 = TLane.MultiplyAdd(x, b1, c01);
            x = TLane.Broadcast(*a1);
            c10 = TLane.MultiplyAdd(x, b0, c10);
            c11 = TLane.MultiplyAdd(x, b1, c11);
            x = TLane.Broadcast(*a2);
            c20 = TLane.MultiplyAdd(x, b0, c20);
            c21 = TLane.MultiplyAdd(x, b1, c21);
            x = TLane.Broadcast(*a3);
            c30 = TLane.MultiplyAdd(x, b0, c30);
            c31 = TLane.MultiplyAdd(x, b1, c31);
            b += bStride;
            a += aColumn;
            a1 += aColumn;
            a2 += aColumn;
            a3 += aColumn;
        }

        Put(c00, c01, c, keep);
        Put(c10, c11, c + cStride, keep);
        Put(c20, c21, c + (2 * cStride), keep);
        Put(c30, c31, c + (3 * cStride), keep);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void OneRow(float* a, nint aColumn, float* b, nint bStride, float* c, int depth, float* keep)
    {
        var (c0, c1) = (TLane.Zero, TLane.Zero);
        for (var k = 0; k < depth; k++)
        {
            var x = TLane.Broadcast(*a);
            c0 = TLane.MultiplyAdd(x, TLane.Load(b), c0);
            c1 = TLane.MultiplyAdd(x, TLane.Load(b + TLane.Count), c1);
            b += bStride;
            a += aColumn;
        }

        Put(c0, c1, c, keep);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(TLane first, TLane second, float* c, float* keep)
    {
        if (keep != null)
        {
            var factor = TLane.Broadcast(*keep);
            first = TLane.MultiplyAdd(factor, TLane.Load(c), first);
            second = TLane.MultiplyAdd(factor, TLane.Load(c + TLane.Count), second);
        }

        TLane.Store(first, c);
        TLane.Store(second, c + TLane.Count);
    }
}
