using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The tensors of a fused convolution: x [B, T, E] and history [B, W - 1, E] of one dtype with channels next to each other, taps [E, W] and
/// bias [E] float32, int64 sequence ids [B, T]; and whether SiLU follows.
/// </summary>
internal sealed record ConvTensors(Tensor X, Tensor Weight, Tensor? Bias, Tensor? History, Tensor? SequenceIds, bool Silu)
{
    public Tensor?[] All => [X, Weight, Bias, History, SequenceIds];
}

/// <summary>Addresses and strides of the tensors of a convolution.</summary>
internal readonly unsafe struct ConvInputs
{
    public readonly int Batch;
    public readonly int Time;
    public readonly int Channels;
    public readonly int Width;
    public readonly bool Silu;

    /// <summary>[W, E].</summary>
    public readonly float* Taps;
    public readonly float* Bias;
    public readonly RowView X;
    private readonly RowView history;
    private readonly long* ids;

    public ConvInputs(ConvTensors tensors, Tensor taps)
    {
        var shape = tensors.X.shape;
        (Batch, Time, Channels, Width, Silu) = ((int)shape[0], (int)shape[1], (int)shape[2], (int)taps.size(0), tensors.Silu);
        (X, history) = (new RowView(tensors.X), new RowView(tensors.History));
        Taps = ScanInputs.Floats(taps);
        Bias = ScanInputs.Floats(tensors.Bias);
        ids = (long*)ScanInputs.Floats(tensors.SequenceIds);
    }

    /// <summary>The row of inputs under each tap of the output at a step; null where there is none.</summary>
    public void Sources(int row, int step, float** sources)
    {
        for (var k = 0; k < Width; k++)
        {
            var input = step - (Width - 1) + k;
            sources[k] = Reaches(row, step, input) ? Input(row, input) : null;
        }
    }

    /// <summary>The row of inputs at a step, W - 1 before the first at most; null where there is none.</summary>
    public float* Input(int row, int step) =>
        step >= 0 ? X.At(row, step) : history.Exists ? history.At(row, step + Width - 1) : null;

    /// <summary>True for four taps over one sequence a row.</summary>
    public bool SuitsFourTapKernel => Width == 4 && ids == null;

    /// <summary>True where the output at a step is made of an input W - 1 steps back at most: in packed rows, only of its own sequence.</summary>
    public bool Reaches(int row, int output, int input) =>
        output >= 0 && output < Time && (ids == null || (input >= 0 && ids[((long)row * Time) + output] == ids[((long)row * Time) + input]));
}

/// <summary>Addresses of the gradients; those of taps and bias are parts [P, W + 1, E], one a task, the bias last.</summary>
internal readonly unsafe struct ConvGradients(Tensor y, Tensor x, Tensor taps, Tensor? history)
{
    public readonly RowView Y = new(y);
    public readonly RowView X = new(x);
    public readonly RowView History = new(history);
    public readonly float* Taps = ScanInputs.Floats(taps);
}

/// <summary>Runs the convolution's kernels.</summary>
internal sealed class ConvOnCpu : IConvDevice
{
    /// <summary>Steps of a tile: its rows stay in the cache while registers go through time.</summary>
    private const int TileSteps = 16;

    /// <summary>Steps that share one part of the gradients of taps and bias, which then is a small share of all memory.</summary>
    private const int PartSteps = 128;

    private const int GroupChannels = 128;

    /// <summary>It holds nothing.</summary>
    public static ConvOnCpu Instance { get; } = new();

    /// <inheritdoc/>
    public ScalarType RowType(Tensor x) => ScalarType.Float32;

    /// <inheritdoc/>
    public Tensor Forward(ConvTensors tensors)
    {
        using var taps = tensors.Weight.t().contiguous();
        var p = new ConvInputs(tensors, taps);
        var y = empty([p.Batch, p.Time, p.Channels], dtype: ScalarType.Float32);
        LaneTasks.Run(new ForwardWork(p, new RowView(y)), p.Batch * Pieces(p.Time, TileSteps), Elements(p));
        TensorMemory.KeepAlive([.. tensors.All, taps]);
        return y;
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(ConvTensors tensors, Tensor gradY)
    {
        using var taps = tensors.Weight.t().contiguous();
        var p = new ConvInputs(tensors, taps);
        var partsOfRow = p.SuitsFourTapKernel ? Pieces(p.Time, PartSteps) : 1;
        var x = empty([p.Batch, p.Time, p.Channels], dtype: ScalarType.Float32);
        var parts = empty([p.Batch * partsOfRow, p.Width + 1, p.Channels], dtype: ScalarType.Float32);
        var history = tensors.History is null ? null : empty([p.Batch, p.Width - 1, p.Channels], dtype: ScalarType.Float32);
        var gradients = new ConvGradients(gradY, x, parts, history);
        if (p.SuitsFourTapKernel)
        {
            LaneTasks.Run(new FourTapBackwardWork(p, gradients), p.Batch * partsOfRow, Elements(p));
        }
        else
        {
            LaneTasks.Run(new BackwardWork(p, gradients), p.Batch * Pieces(p.Channels, GroupChannels), Elements(p));
        }

        TensorMemory.KeepAlive([.. tensors.All, taps, gradY, history]);
        var sums = parts.sum(dim: 0);
        return [x, sums.narrow(0, 0, p.Width).t(), tensors.Bias is null ? null : sums[p.Width], history, null];
    }

    private static int Pieces(int count, int size) => (count + size - 1) / size;

    private static long Elements(in ConvInputs p) => (long)p.Batch * p.Time * p.Channels * p.Width;

    private readonly struct ForwardWork(ConvInputs p, RowView y) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var tiles = Pieces(p.Time, TileSteps);
            var (row, start) = (task / tiles, task % tiles * TileSteps);
            var count = Math.Min(TileSteps, p.Time - start);
            if (p.SuitsFourTapKernel)
            {
                FourTapKernel<TLane>.Forward(p, y, row, start, count);
            }
            else
            {
                ConvKernel<TLane>.Forward(p, y, row, start, count);
            }
        }
    }

    /// <summary>A task is a stretch of time with all channels.</summary>
    private readonly unsafe struct FourTapBackwardWork(ConvInputs p, ConvGradients gradients) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var partsOfRow = Pieces(p.Time, PartSteps);
            var (row, first) = (task / partsOfRow, task % partsOfRow * PartSteps);
            var partFloats = (p.Width + 1) * p.Channels;
            LaneMemory.Clear(gradients.Taps + ((long)task * partFloats), partFloats);
            var end = Math.Min(first + PartSteps, p.Time);
            for (var start = first; start < end; start += TileSteps)
            {
                FourTapKernel<TLane>.Backward(p, gradients, task, row, start, Math.Min(TileSteps, end - start));
            }
        }
    }

    /// <summary>A task is a group of channels over all of time.</summary>
    private readonly struct BackwardWork(ConvInputs p, ConvGradients gradients) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var groups = Pieces(p.Channels, GroupChannels);
            var (row, first) = (task / groups, task % groups * GroupChannels);
            ConvKernel<TLane>.Backward(p, gradients, row, first, Math.Min(first + GroupChannels, p.Channels));
        }
    }
}
