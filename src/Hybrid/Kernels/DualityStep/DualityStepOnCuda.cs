using System.Runtime.InteropServices;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct StepArguments of duality_step.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DualityStepArguments
{
    public nint Projected;
    public nint ConvolutionWeight;
    public nint ConvolutionBias;
    public nint StepBias;
    public nint DecayLog;
    public nint Skip;
    public nint Norm;
    public nint Window;
    public nint State;
    public nint Convolved;
    public nint Mixed;
    public nint Squares;
    public nint Y;
    public nint Barrier;
    public int Batch;
    public int Heads;
    public int HeadWidth;
    public int Groups;
    public int NormGroups;
    public int GateFirst;
    public float Low;
    public float High;
    public float Epsilon;
}

/// <summary>Runs the kernel of duality_step.cu: one token of a Mamba-2 layer between its projections in one launch.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class DualityStepOnCuda(CudaRuntime runtime)
{
    /// <summary>Channels of a block in the recurrence, all of one head and one group of the norm.</summary>
    private const long Tile = 16;

    /// <summary>States of a channel at most: a warp holds them in its registers.</summary>
    private const long MostStates = 256;

    private static readonly CudaKernel<DualityStepOnCuda> OnCuda = new(
        "DualityStep.Cuda", runtime => new(runtime), (kernel, device) => DualityStep.Compare(device, 16, kernel.Apply));

    /// <summary>
    /// The kernel for a layer's tensors; null where it cannot run, and then the dispatcher logs why not. It can where heads and groups of the
    /// norm have a multiple of 16 channels, and tensors are as <see cref="StepMemory"/> has them.
    /// </summary>
    public static DualityStepOnCuda? For(Tensor x, DualityStepLayer layer, Tensor window, Tensor state)
    {
        var kernel = OnCuda.For(
            ("x", x), ("the convolution's weight", layer.ConvolutionWeight), ("its bias", layer.ConvolutionBias), ("dt_bias", layer.StepBias),
            ("A_log", layer.DecayLog), ("D", layer.Skip), ("the norm's weight", layer.Norm?.Weight), ("the window", window), ("the state", state));
        if (kernel is null || Fits(x, layer, window, state, out var reason))
        {
            return kernel;
        }

        KernelDispatcher.Refused(OnCuda.Name, reason);
        return null;
    }

    /// <summary>True where sizes, dtypes and memory are as the kernel has them.</summary>
    internal static bool Fits(Tensor x, DualityStepLayer layer, Tensor window, Tensor state, out string reason)
    {
        var (headWidth, n, group) = (state.size(2), state.size(3), state.size(1) * state.size(2) / (layer.Norm?.Groups ?? 1));
        reason = StepMemory.Misfit(
            x.dtype, [layer.ConvolutionWeight, layer.ConvolutionBias, window], [layer.StepBias, layer.DecayLog, layer.Skip, layer.Norm?.Weight], state);
        reason = reason.Length > 0 ? reason
            : headWidth % Tile != 0 || group % Tile != 0 ? $"heads of {headWidth} and groups of {group} channels are not all multiples of {Tile}"
            : n > MostStates ? $"a channel has {n} states; the kernel takes {MostStates}"
            : "";
        return reason.Length == 0;
    }

    /// <summary>Runs the step; see <see cref="DualityStep.Apply"/>.</summary>
    public Tensor Apply(Tensor projected, DualityStepLayer layer, Tensor window, Tensor state, StepBuffers buffers)
    {
        var (batch, heads, headWidth, n) = (state.size(0), state.size(1), state.size(2), state.size(3));
        var (inner, convolutions) = (heads * headWidth, window.size(2));
        var (convolved, mixed, squares) = (
            buffers.Take(state, batch, convolutions), buffers.Take(state, batch, inner), buffers.Take(state, batch, inner / Tile));
        var y = buffers.Take(projected, batch, 1, inner);
        var p = new DualityStepArguments
        {
            Projected = CudaRows.Address(projected),
            ConvolutionWeight = CudaRows.Address(layer.ConvolutionWeight),
            ConvolutionBias = CudaRows.Address(layer.ConvolutionBias),
            StepBias = CudaRows.Address(layer.StepBias),
            DecayLog = CudaRows.Address(layer.DecayLog),
            Skip = CudaRows.Address(layer.Skip),
            Norm = CudaRows.Address(layer.Norm?.Weight),
            Window = CudaRows.Address(window),
            State = CudaRows.Address(state),
            Convolved = CudaRows.Address(convolved),
            Mixed = CudaRows.Address(mixed),
            Squares = CudaRows.Address(squares),
            Y = CudaRows.Address(y),
            Barrier = runtime.Barrier,
            Batch = (int)batch,
            Heads = (int)heads,
            HeadWidth = (int)headWidth,
            Groups = (int)layer.Groups,
            NormGroups = (int)(layer.Norm?.Groups ?? 1),
            GateFirst = layer.Norm is { NormBeforeGate: true } ? 0 : 1,
            Low = (float)layer.StepMin,
            High = (float)layer.StepMax,
            Epsilon = (float)(layer.Norm?.Epsilon ?? 0),
        };
        var program = CudaProgram.Of(
            "duality_step.cu", projected.dtype, ("STATES", n), ("TAPS", window.size(1) + 1),
            ("PARAMETERS", layer.Skip.dtype == ScalarType.Float32 ? 1 : 0), ("STEP_BYTES", sizeof(DualityStepArguments)));
        runtime.LaunchTogether(program, "duality_step", batch * inner / Tile, p);
        layer.KeepAlive();
        GC.KeepAlive(projected);
        GC.KeepAlive(window);
        GC.KeepAlive(state);
        return y;
    }
}
