using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>A matrix M [K, N] for products of a few rows with it: columns in panels of 64, [N / 64, K, 64], the last one padded with zeros.</summary>
internal readonly unsafe struct PanelMatrix
{
    public const int PanelWidth = 64;
    private const int LanesAtOnce = 4;

    private readonly float* panels;
    private readonly int rows;
    private readonly int count;

    /// <param name="packed">What <see cref="Pack"/> made.</param>
    public PanelMatrix(Tensor packed)
    {
        panels = (float*)TensorMemory.Address(packed);
        (count, rows) = ((int)packed.size(0), (int)packed.size(1));
    }

    /// <summary>Columns with those of the padding.</summary>
    public int Width => count * PanelWidth;

    /// <summary>Packs a float32 matrix [K, N].</summary>
    public static Tensor Pack(Tensor matrix)
    {
        var (rows, columns) = (matrix.size(0), matrix.size(1));
        var count = (columns + PanelWidth - 1) / PanelWidth;
        var padded = zeros(rows, count * PanelWidth);
        padded.narrow(1, 0, columns).copy_(matrix);
        return padded.view(rows, count, PanelWidth).transpose(0, 1).contiguous();
    }

    /// <summary>y = x M for one row, or for two, which read M once. Sums run over k in order, whatever the number of rows.</summary>
    /// <param name="x">[K] of each row.</param>
    /// <param name="xNext">Floats from one row of x to the next.</param>
    /// <param name="y">[<see cref="Width"/>] of each row.</param>
    /// <param name="pair">True for two rows.</param>
    public void Multiply<TLane>(float* x, int xNext, float* y, bool pair)
        where TLane : struct, ILane<TLane>
    {
        for (var column = 0; column < Width; column += LanesAtOnce * TLane.Count)
        {
            var panel = panels + ((long)(column / PanelWidth) * rows * PanelWidth) + (column % PanelWidth);
            if (pair)
            {
                Two<TLane>(x, x + xNext, panel, y + column, y + Width + column);
            }
            else
            {
                One<TLane>(x, panel, y + column);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    private void One<TLane>(float* x, float* panel, float* y)
        where TLane : struct, ILane<TLane>
    {
        var lanes = TLane.Count;
        var (a, b, c, d) = (TLane.Zero, TLane.Zero, TLane.Zero, TLane.Zero);
        for (var k = 0; k < rows; k++, panel += PanelWidth)
        {
            var value = TLane.Broadcast(x[k]);
            a = TLane.MultiplyAdd(value, TLane.Load(panel), a);
            b = TLane.MultiplyAdd(value, TLane.Load(panel + lanes), b);
            c = TLane.MultiplyAdd(value, TLane.Load(panel + (2 * lanes)), c);
            d = TLane.MultiplyAdd(value, TLane.Load(panel + (3 * lanes)), d);
        }

        TLane.Store(a, y);
        TLane.Store(b, y + lanes);
        TLane.Store(c, y + (2 * lanes));
        TLane.Store(d, y + (3 * lanes));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    private void Two<TLane>(float* first, float* second, float* panel, float* yFirst, float* ySecond)
        where TLane : struct, ILane<TLane>
    {
        var lanes = TLane.Count;
        var (a, b, c, d) = (TLane.Zero, TLane.Zero, TLane.Zero, TLane.Zero);
        var (e, f, g, h) = (TLane.Zero, TLane.Zero, TLane.Zero, TLane.Zero);
        for (var k = 0; k < rows; k++, panel += PanelWidth)
        {
            var (one, two) = (TLane.Broadcast(first[k]), TLane.Broadcast(second[k]));
            var (m, n) = (TLane.Load(panel), TLane.Load(panel + lanes));
            var (o, p) = (TLane.Load(panel + (2 * lanes)), TLane.Load(panel + (3 * lanes)));
            a = TLane.MultiplyAdd(one, m, a);
            b = TLane.MultiplyAdd(one, n, b);
            c = TLane.MultiplyAdd(one, o, c);
            d = TLane.MultiplyAdd(one, p, d);
            e = TLane.MultiplyAdd(two, m, e);
            f = TLane.MultiplyAdd(two, n, f);
            g = TLane.MultiplyAdd(two, o, g);
            h = TLane.MultiplyAdd(two, p, h);
        }

        TLane.Store(a, yFirst);
        TLane.Store(b, yFirst + lanes);
        TLane.Store(c, yFirst + (2 * lanes));
        TLane.Store(d, yFirst + (3 * lanes));
        TLane.Store(e, ySecond);
        TLane.Store(f, ySecond + lanes);
        TLane.Store(g, ySecond + (2 * lanes));
        TLane.Store(h, ySecond + (3 * lanes));
    }
}

/// <summary>Addresses of a recurrence of the unit; gates lie in torch's order, reset, update, new.</summary>
internal unsafe struct GruProblem
{
    public const int RowsOfTask = 2;

    public int Batch;
    public int Time;
    public int Width;

    /// <summary>W_i x + b_i [B, T, 3E].</summary>
    public RowView Projected;

    /// <summary>Forward: W_h transposed [E, 3E]; backward: W_h [3E, E].</summary>
    public PanelMatrix Weight;

    /// <summary>W_h h + b_h of the one step there is [B, 3E], or null where it is to be computed from <see cref="Weight"/>.</summary>
    public float* Product;

    /// <summary>b_h [3E], or null.</summary>
    public float* Bias;

    /// <summary>The states before the first step [B, E], or null for zeros; backward, the gradients of those after the last, and in the end before the first.</summary>
    public float* State;

    /// <summary>Forward: the states after all steps [B, T, E]; backward: their gradients.</summary>
    public RowView Y;

    /// <summary>Backward: the states before all steps [B, T, E], and W_h h + b_h of them [B, T, 3E].</summary>
    public RowView Before;
    public RowView Recurrent;

    /// <summary>Backward: gradients of <see cref="Projected"/> and of <see cref="Recurrent"/>.</summary>
    public RowView GradProjected;
    public RowView GradRecurrent;

    public readonly int Tasks => (Batch + RowsOfTask - 1) / RowsOfTask;
}

/// <summary>
/// The unit's recurrence for two batch rows, step after step: a product with W_h, which stays in the cache of the core, then the gates.
/// </summary>
internal readonly unsafe struct GruForward(GruProblem p) : ILaneWork
{
    private readonly GruProblem p = p;

    public void Run<TLane>(int task)
        where TLane : struct, ILane<TLane>
    {
        var (first, rows) = (task * GruProblem.RowsOfTask, Math.Min(GruProblem.RowsOfTask, p.Batch - (task * GruProblem.RowsOfTask)));
        var stride = (p.Width + TLane.Count - 1) / TLane.Count * TLane.Count;
        var productWidth = p.Product == null ? p.Weight.Width : 3 * p.Width;
        using var scratch = new Scratch((rows * (stride + productWidth)) + TLane.Count);
        float* state = scratch.Take(rows * stride), product = scratch.Take((rows * productWidth) + TLane.Count);
        LaneMemory.Clear(state, rows * stride);
        for (var row = 0; row < rows && p.State != null; row++)
        {
            LaneMemory.Copy(p.State + ((long)(first + row) * p.Width), state + (row * stride), p.Width);
        }

        for (var t = 0; t < p.Time; t++)
        {
            if (p.Product == null)
            {
                p.Weight.Multiply<TLane>(state, stride, product, rows == 2);
            }
            else
            {
                LaneMemory.Copy(p.Product + ((long)first * productWidth), product, rows * productWidth);
            }

            for (var row = 0; row < rows; row++)
            {
                Gates<TLane>(p.Projected.At(first + row, t), product + (row * productWidth), state + (row * stride), p.Y.At(first + row, t));
            }
        }
    }

    /// <summary>r, z, n and h = n + z (h - n).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    private void Gates<TLane>(float* projected, float* product, float* state, float* y)
        where TLane : struct, ILane<TLane>
    {
        for (var c = 0; c < p.Width; c += TLane.Count)
        {
            var width = p.Width - c;
            var reset = LaneMath.Sigmoid(Input<TLane>(projected, c, width) + Recurrent<TLane>(product, c, width));
            var update = LaneMath.Sigmoid(Input<TLane>(projected, p.Width + c, width) + Recurrent<TLane>(product, p.Width + c, width));
            var fresh = LaneMath.Tanh(
                TLane.MultiplyAdd(reset, Recurrent<TLane>(product, (2 * p.Width) + c, width), Input<TLane>(projected, (2 * p.Width) + c, width)));
            var h = TLane.MultiplyAdd(update, TLane.Load(state + c) - fresh, fresh);
            TLane.Store(h, state + c);
            LaneMemory.Store(h, y + c, width);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLane Input<TLane>(float* projected, int at, int width)
        where TLane : struct, ILane<TLane> => LaneMemory.Load<TLane>(projected + at, width);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private TLane Recurrent<TLane>(float* product, int at, int width)
        where TLane : struct, ILane<TLane> =>
        p.Bias == null ? TLane.Load(product + at) : TLane.Load(product + at) + LaneMemory.Load<TLane>(p.Bias + at, width);
}

/// <summary>The recurrence backwards, for two batch rows: the gates, then the product of their gradients with W_h.</summary>
internal readonly unsafe struct GruBackward(GruProblem p) : ILaneWork
{
    private readonly GruProblem p = p;

    public void Run<TLane>(int task)
        where TLane : struct, ILane<TLane>
    {
        var (first, rows) = (task * GruProblem.RowsOfTask, Math.Min(GruProblem.RowsOfTask, p.Batch - (task * GruProblem.RowsOfTask)));
        var (stride, gates) = ((p.Width + TLane.Count - 1) / TLane.Count * TLane.Count, 3 * p.Width);
        using var scratch = new Scratch(rows * (stride + gates + p.Weight.Width));
        float* carried = scratch.Take(rows * stride), gradients = scratch.Take(rows * gates), product = scratch.Take(rows * p.Weight.Width);
        LaneMemory.Clear(carried, rows * stride);
        for (var row = 0; row < rows; row++)
        {
            LaneMemory.Copy(p.State + ((long)(first + row) * p.Width), carried + (row * stride), p.Width);
        }

        for (var t = p.Time - 1; t >= 0; t--)
        {
            for (var row = 0; row < rows; row++)
            {
                Gates<TLane>(first + row, t, carried + (row * stride));
                LaneMemory.Copy(p.GradRecurrent.At(first + row, t), gradients + (row * gates), gates);
            }

            p.Weight.Multiply<TLane>(gradients, gates, product, rows == 2);
            for (var row = 0; row < rows; row++)
            {
                Add<TLane>(product + (row * p.Weight.Width), carried + (row * stride));
            }
        }

        for (var row = 0; row < rows; row++)
        {
            LaneMemory.Copy(carried + (row * stride), p.State + ((long)(first + row) * p.Width), p.Width);
        }
    }

    /// <summary>Gradients before the gates; what is carried becomes the part of dh that does not go through W_h, z dh.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    private void Gates<TLane>(int row, int time, float* carried)
        where TLane : struct, ILane<TLane>
    {
        float* projected = p.Projected.At(row, time), recurrent = p.Recurrent.At(row, time), before = p.Before.At(row, time), gradY = p.Y.At(row, time);
        float* gradProjected = p.GradProjected.At(row, time), gradRecurrent = p.GradRecurrent.At(row, time);
        var one = TLane.Broadcast(1);
        for (var c = 0; c < p.Width; c += TLane.Count)
        {
            int width = p.Width - c, update = p.Width + c, fresh = (2 * p.Width) + c;
            var r = LaneMath.Sigmoid(Load(projected, c) + Load(recurrent, c));
            var z = LaneMath.Sigmoid(Load(projected, update) + Load(recurrent, update));
            var product = Load(recurrent, fresh);
            var n = LaneMath.Tanh(TLane.MultiplyAdd(r, product, Load(projected, fresh)));

            var gradient = TLane.Load(carried + c) + Load(gradY, c);
            var gradFresh = gradient * (one - z) * (one - (n * n));
            var gradUpdate = gradient * (Load(before, c) - n) * z * (one - z);
            var gradReset = gradFresh * product * r * (one - r);
            LaneMemory.Store(gradReset, gradProjected + c, width);
            LaneMemory.Store(gradReset, gradRecurrent + c, width);
            LaneMemory.Store(gradUpdate, gradProjected + update, width);
            LaneMemory.Store(gradUpdate, gradRecurrent + update, width);
            LaneMemory.Store(gradFresh, gradProjected + fresh, width);
            LaneMemory.Store(gradFresh * r, gradRecurrent + fresh, width);
            TLane.Store(gradient * z, carried + c);

            [MethodImpl(MethodImplOptions.AggressiveInlining)]
            TLane Load(float* source, int at) => LaneMemory.Load<TLane>(source + at, width);
        }
    }

    private void Add<TLane>(float* product, float* carried)
        where TLane : struct, ILane<TLane>
    {
        for (var c = 0; c < p.Width; c += TLane.Count)
        {
            TLane.Store(TLane.Load(carried + c) + TLane.Load(product + c), carried + c);
        }
    }
}
