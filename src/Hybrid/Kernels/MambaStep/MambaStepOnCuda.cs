using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct StepArguments of mamba_step.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct MambaStepArguments
{
    public nint Projected;
    public nint Convolved;
    public nint Parts;
    public nint ConvolutionWeight;
    public nint ConvolutionBias;
    public nint StepWeight;
    public nint StepBias;
    public nint DecayLog;
    public nint Skip;
    public nint Window;
    public nint State;
    public nint Y;
    public long Batch;
    public long Channels;
    public long Rank;
    public int Silu;
    public float Low;
    public float High;
    public int Unused;
}

/// <summary>
/// One token of a Mamba layer on CUDA: the convolution in one kernel, W_x as a matrix product of libtorch (it needs all channels at once),
/// and everything after it in another kernel.
/// </summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class MambaStepOnCuda(CudaRuntime runtime)
{
    private const string Kernel = "MambaStep.Cuda";

    /// <summary>
    /// True where the step can run: everything in the dtype of <paramref name="x"/> but the state, which is float32, and A_log, D and b_dt,
    /// which may all three be. Otherwise the dispatcher logs why not.
    /// </summary>
    public static bool CanRun(Tensor x, MambaStepWeights weights, Tensor window, Tensor state)
    {
        var onCuda = CudaRuntime.TryGet(
            out var runtime, out var reason, ("x", x), ("the convolution's weight", weights.ConvolutionWeight), ("its bias", weights.ConvolutionBias),
            ("W_x", weights.PartsWeight), ("W_dt", weights.StepWeight), ("b_dt", weights.StepBias), ("A_log", weights.DecayLog), ("D", weights.Skip),
            ("the window", window), ("the state", state));
        if (onCuda && Fits(x, weights, window, state, out reason)
            && KernelDispatcher.Agrees($"{Kernel} {runtime.Device}", () => MambaStep.Compare(runtime.TorchDevice, new MambaStepOnCuda(runtime).Apply), out reason))
        {
            return true;
        }

        KernelDispatcher.Refused(Kernel, reason);
        return false;
    }

    /// <summary>The device of a tensor; null where it is not a CUDA device.</summary>
    public static MambaStepOnCuda? For(Tensor x) =>
        CudaRuntime.Of(x) is { } runtime ? new MambaStepOnCuda(runtime) : null;

    /// <summary>True where dtypes and memory are as the kernels have them.</summary>
    internal static bool Fits(Tensor x, MambaStepWeights weights, Tensor window, Tensor state, out string reason)
    {
        var dtype = x.dtype;
        Tensor?[] same = [weights.ConvolutionWeight, weights.ConvolutionBias, weights.PartsWeight, weights.StepWeight, window];
        ScalarType[] parameters = [weights.StepBias.dtype, weights.DecayLog.dtype, weights.Skip.dtype];
        reason = (same.Any(tensor => tensor is not null && tensor.dtype != dtype), parameters.Distinct().Count(), parameters[0]) switch
        {
            (true, _, _) => $"a weight or the window is not {dtype}",
            (_, not 1, _) => "A_log, D and the step bias differ in dtype",
            (_, _, var other) when other != dtype && other != ScalarType.Float32 => $"A_log, D and the step bias are {other}",
            _ when state.dtype != ScalarType.Float32 => $"the state is {state.dtype}",
            _ when !window.is_contiguous() || !state.is_contiguous() => "the state is not contiguous",
            _ => "",
        };
        return reason.Length == 0;
    }

    /// <summary>Runs the step; see <see cref="MambaStep.Apply"/>.</summary>
    public Tensor Apply(Tensor projected, MambaStepWeights weights, Tensor window, Tensor state, bool silu, (double Min, double Max) stepLimits)
    {
        using var scope = NewDisposeScope();
        var shape = state.shape;
        var (batch, channels, n) = (shape[0], shape[1], shape[2]);
        Tensor?[] inputs =
        [
            projected.contiguous(), weights.ConvolutionWeight.contiguous(), weights.ConvolutionBias?.contiguous(), weights.StepWeight.contiguous(),
            weights.StepBias.contiguous(), weights.DecayLog.contiguous(), weights.Skip.contiguous(),
        ];
        var (convolved, y) = (Elements(), Elements());
        var p = new MambaStepArguments
        {
            Projected = CudaRows.Address(inputs[0]),
            Convolved = CudaRows.Address(convolved),
            ConvolutionWeight = CudaRows.Address(inputs[1]),
            ConvolutionBias = CudaRows.Address(inputs[2]),
            StepWeight = CudaRows.Address(inputs[3]),
            StepBias = CudaRows.Address(inputs[4]),
            DecayLog = CudaRows.Address(inputs[5]),
            Skip = CudaRows.Address(inputs[6]),
            Window = CudaRows.Address(window),
            State = CudaRows.Address(state),
            Y = CudaRows.Address(y),
            Batch = batch,
            Channels = channels,
            Rank = weights.StepWeight.size(1),
            Silu = silu ? 1 : 0,
            Low = (float)stepLimits.Min,
            High = (float)stepLimits.Max,
        };
        var program = CudaProgram.Of(
            "mamba_step.cu", projected.dtype, ("STATES", n), ("TAPS", window.size(1) + 1),
            ("PARAMETERS", weights.Skip.dtype == ScalarType.Float32 ? 1 : 0), ("STEP_BYTES", sizeof(MambaStepArguments)));
        runtime.Launch(program, "mamba_convolution_step", batch * channels, p);
        var parts = nn.functional.linear(convolved, weights.PartsWeight);
        p.Parts = CudaRows.Address(parts);
        runtime.Launch(program, "mamba_scan_step", batch * channels, p);
        TensorMemory.KeepAlive([.. inputs, convolved, parts, window, state, y]);
        return y.MoveToOuterDisposeScope();

        Tensor Elements() => empty([batch, 1, channels], dtype: projected.dtype, device: projected.device);
    }
}
