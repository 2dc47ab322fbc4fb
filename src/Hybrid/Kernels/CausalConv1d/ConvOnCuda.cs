using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct ConvArguments of causal_conv1d.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ConvArguments
{
    public CudaRows X;
    public CudaRows History;
    public CudaRows YGradient;
    public nint Taps;
    public nint Bias;
    public nint Sequences;
    public nint Y;
    public nint HistoryGradient;
    public nint TapsGradient;
    public nint BiasGradient;
    public long Batch;
    public long Time;
    public long Channels;
    public long StretchSteps;
    public long Stretches;
}

/// <summary>Runs the kernels of causal_conv1d.cu.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class ConvOnCuda(CudaRuntime runtime) : IConvDevice
{
    /// <summary>Most steps that a thread reads at once: AHEAD in causal_conv1d.cu.</summary>
    private const int AheadSteps = 8;

    /// <summary>Most steps of a thread; its W - 1 extra ones then do not count. Fewer where there would be too few threads to fill a device.</summary>
    private const int MostSteps = 64;
    private const int FewestSteps = 16;

    /// <summary>Bytes that a thread reads at once where addresses allow, as one or two channels.</summary>
    private const int WordBytes = 4;

    /// <summary>Above this width, windows of two channels would not fit in registers.</summary>
    private const int WidestOfTwoChannels = 8;

    /// <inheritdoc/>
    public ScalarType RowType(Tensor x) => x.dtype;

    /// <inheritdoc/>
    public Tensor Forward(ConvTensors tensors)
    {
        var channels = ThreadChannels(tensors, tensors.X);
        var p = Inputs(tensors, channels);
        var y = empty(tensors.X.shape, dtype: tensors.X.dtype, device: tensors.X.device);
        p.Y = CudaRows.Address(y);
        runtime.Launch(Program(tensors, channels), "causal_conv1d", p.Stretches * p.Batch * (p.Channels / channels), p);
        TensorMemory.KeepAlive([.. tensors.All, y]);
        return y;
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(ConvTensors tensors, Tensor gradY)
    {
        var channels = ThreadChannels(tensors, gradY);
        var p = Inputs(tensors, channels);
        var (device, width) = (tensors.X.device, tensors.Weight.size(1));
        var x = empty(tensors.X.shape, dtype: tensors.X.dtype, device: device);
        var history = tensors.History is null ? null : empty([p.Batch, width - 1, p.Channels], dtype: tensors.X.dtype, device: device);
        var taps = empty([p.Stretches * p.Batch, width, p.Channels], dtype: ScalarType.Float32, device: device);
        var bias = tensors.Bias is null ? null : empty([p.Stretches * p.Batch, p.Channels], dtype: ScalarType.Float32, device: device);
        p.YGradient = new CudaRows(gradY);
        p.Y = CudaRows.Address(x);
        p.HistoryGradient = CudaRows.Address(history);
        p.TapsGradient = CudaRows.Address(taps);
        p.BiasGradient = CudaRows.Address(bias);
        runtime.Launch(Program(tensors, channels), "causal_conv1d_gradient", p.Stretches * p.Batch * (p.Channels / channels), p);
        TensorMemory.KeepAlive([.. tensors.All, gradY, x, history, taps, bias]);
        return [x, taps.sum(dim: 0).t(), bias?.sum(dim: 0), history, null];
    }

    /// <summary>Neighbouring channels that a thread takes: those of a word where all steps of x, of the history and of the gradient begin at words.</summary>
    private static long ThreadChannels(ConvTensors tensors, Tensor gradY)
    {
        var (bytes, channels) = (tensors.X.element_size(), tensors.X.size(2));
        var inWords = channels * bytes % WordBytes == 0 && new[] { tensors.X, tensors.History, gradY }.All(
            rows => new CudaRows(rows).BeginsAtMultiplesOf(WordBytes, bytes));
        return inWords && tensors.Weight.size(1) <= WidestOfTwoChannels ? WordBytes / bytes : 1;
    }

    private ConvArguments Inputs(ConvTensors tensors, long threadChannels)
    {
        var shape = tensors.X.shape;
        var filling = shape[0] * shape[1] * (shape[2] / threadChannels) / runtime.FullThreads;
        var steps = Math.Clamp(filling / AheadSteps * AheadSteps, FewestSteps, MostSteps);
        return new ConvArguments
        {
            X = new CudaRows(tensors.X),
            History = new CudaRows(tensors.History),
            Taps = CudaRows.Address(tensors.Weight),
            Bias = CudaRows.Address(tensors.Bias),
            Sequences = CudaRows.Address(tensors.SequenceIds),
            Batch = shape[0],
            Time = shape[1],
            Channels = shape[2],
            StretchSteps = steps,
            Stretches = (shape[1] + steps - 1) / steps,
        };
    }

    private static CudaProgram Program(ConvTensors tensors, long threadChannels) => CudaProgram.Of(
        "causal_conv1d.cu", tensors.X.dtype, ("WIDTH", tensors.Weight.size(1)), ("CHANNELS", threadChannels),
        ("PACKED", tensors.SequenceIds is null ? 0 : 1), ("SILU", tensors.Silu ? 1 : 0), ("CONV_BYTES", sizeof(ConvArguments)));
}
