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
    private readonly RowView x;
    private readonly RowView history;
    private readonly long* ids;

    public ConvInputs(ConvTensors tensors, Tensor taps)
    {
        var shape = tensors.X.shape;
        (Batch, Time, Channels, Width, Silu) = ((int)shape[0], (int)shape[1], (int)shape[2], (int)taps.size(0), tensors.Silu);
        (x, history) = (new RowView(tensors.X), new RowView(tensors.History));
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
            sources[k] = !Reaches(row, step, input) ? null
                : input >= 0 ? x.At(row, input)
                : history.Exists ? history.At(row, step + k) : null;
        }
    }

    /// <summary>True where the output at a step is made of an input W - 1 steps back at most: in packed rows, only of its own sequence.</summary>
    public bool Reaches(int row, int output, int input) =>
        output >= 0 && output < Time && (ids == null || (input >= 0 && ids[((long)row * Time) + output] == ids[((long)row * Time) + input]));
}

/// <summary>Addresses of the gradients; those of taps [B, W, E] and bias [B, E] are parts, one a row.</summary>
internal readonly unsafe struct ConvGradients(Tensor y, Tensor x, Tensor taps, Tensor? bias, Tensor? history)
{
    public readonly RowView Y = new(y);
    public readonly RowView X = new(x);
    public readonly RowView History = new(history);
    public readonly float* Taps = ScanInputs.Floats(taps);
    public readonly float* Bias = ScanInputs.Floats(bias);
}

/// <summary>Runs the convolution's kernel.</summary>
internal sealed class ConvOnCpu : IConvDevice
{
    private const int Steps = 32;
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
        var work = new ForwardWork(p, new RowView(y));
        LaneTasks.Run(work, p.Batch * work.Stretches, (long)p.Batch * p.Time * p.Channels * p.Width);
        TensorMemory.KeepAlive([.. tensors.All, taps]);
        return y;
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(ConvTensors tensors, Tensor gradY)
    {
        using var taps = tensors.Weight.t().contiguous();
        var p = new ConvInputs(tensors, taps);
        var x = empty([p.Batch, p.Time, p.Channels], dtype: ScalarType.Float32);
        var tapParts = empty([p.Batch, p.Width, p.Channels], dtype: ScalarType.Float32);
        var biasParts = tensors.Bias is null ? null : empty([p.Batch, p.Channels], dtype: ScalarType.Float32);
        var history = tensors.History is null ? null : empty([p.Batch, p.Width - 1, p.Channels], dtype: ScalarType.Float32);
        var work = new BackwardWork(p, new ConvGradients(gradY, x, tapParts, biasParts, history));
        LaneTasks.Run(work, p.Batch * work.Groups, (long)p.Batch * p.Time * p.Channels * p.Width);
        TensorMemory.KeepAlive([.. tensors.All, taps, gradY]);
        return [x, tapParts.sum(dim: 0).t(), biasParts?.sum(dim: 0), history, null];
    }

    private readonly struct ForwardWork(ConvInputs p, RowView y) : ILaneWork
    {
        public int Stretches => (p.Time + Steps - 1) / Steps;

        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var (row, start) = (task / Stretches, task % Stretches * Steps);
            ConvKernel<TLane>.Forward(p, y, row, start, Math.Min(Steps, p.Time - start));
        }
    }

    private readonly struct BackwardWork(ConvInputs p, ConvGradients gradients) : ILaneWork
    {
        public int Groups => (p.Channels + GroupChannels - 1) / GroupChannels;

        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var (row, first) = (task / Groups, task % Groups * GroupChannels);
            ConvKernel<TLane>.Backward(p, gradients, row, first, Math.Min(first + GroupChannels, p.Channels));
        }
    }
}
