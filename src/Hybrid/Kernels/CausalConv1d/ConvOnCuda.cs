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
    public int Silu;
    public int Unused;
}

/// <summary>Runs the kernels of causal_conv1d.cu.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class ConvOnCuda(CudaRuntime runtime) : IConvDevice
{
    /// <summary>Steps of a thread: few enough to fill a device, many enough that its W - 1 extra ones do not count.</summary>
    private const int StretchSteps = 32;

    /// <inheritdoc/>
    public ScalarType RowType(Tensor x) => x.dtype;

    /// <inheritdoc/>
    public Tensor Forward(ConvTensors tensors)
    {
        var p = Inputs(tensors);
        var y = empty(tensors.X.shape, dtype: tensors.X.dtype, device: tensors.X.device);
        p.Y = CudaRows.Address(y);
        runtime.Launch(Program(tensors), "causal_conv1d", p.Stretches * p.Batch * p.Channels, p);
        TensorMemory.KeepAlive([.. tensors.All, y]);
        return y;
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(ConvTensors tensors, Tensor gradY)
    {
        var p = Inputs(tensors);
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
        runtime.Launch(Program(tensors), "causal_conv1d_gradient", p.Stretches * p.Batch * p.Channels, p);
        TensorMemory.KeepAlive([.. tensors.All, gradY, x, history, taps, bias]);
        return [x, taps.sum(dim: 0).t(), bias?.sum(dim: 0), history, null];
    }

    private static ConvArguments Inputs(ConvTensors tensors)
    {
        var shape = tensors.X.shape;
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
            StretchSteps = StretchSteps,
            Stretches = (shape[1] + StretchSteps - 1) / StretchSteps,
            Silu = tensors.Silu ? 1 : 0,
        };
    }

    private static CudaProgram Program(ConvTensors tensors) => CudaProgram.Of(
        "causal_conv1d.cu", tensors.X.dtype, ("WIDTH", tensors.Weight.size(1)), ("CONV_BYTES", sizeof(ConvArguments)));
}
