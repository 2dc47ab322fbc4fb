using System.Runtime.InteropServices;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct StepArguments of mamba_step.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct MambaStepArguments
{
    public nint Projected;
    public nint ConvolutionWeight;
    public nint ConvolutionBias;
    public nint PartsWeight;
    public nint StepWeight;
    public nint StepBias;
    public nint DecayLog;
    public nint Skip;
    public nint StepNorm;
    public nint InputNorm;
    public nint OutputNorm;
    public nint Window;
    public nint State;
    public nint Convolved;
    public nint Sums;
    public nint Y;
    public nint Barrier;
    public long Batch;
    public long Channels;
    public int Silu;
    public float Low;
    public float High;
    public float NormEpsilon;
}

/// <summary>Runs the kernel of mamba_step.cu: one token of a Mamba layer between its projections in one launch.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class MambaStepOnCuda(CudaRuntime runtime)
{
    private static readonly CudaKernel<MambaStepOnCuda> OnCuda = new(
        "MambaStep.Cuda", runtime => new(runtime), (kernel, device) => MambaStep.Compare(device, kernel.Apply));

    private const long BlockChannels = 128;
    private const int PackBytes = 16;

    /// <summary>Most numbers of dt, B and C together: a block adds them up in its shared memory.</summary>
    private const long MostParts = 1024;

    /// <summary>
    /// The kernel for a layer's tensors; null where it cannot run, and then the dispatcher logs why not. It can where tensors are as
    /// <see cref="StepMemory"/> has them.
    /// </summary>
    public static MambaStepOnCuda? For(Tensor x, MambaStepWeights weights, Tensor window, Tensor state)
    {
        var kernel = OnCuda.For(
            ("x", x), ("the convolution's weight", weights.ConvolutionWeight), ("its bias", weights.ConvolutionBias), ("W_x", weights.PartsWeight),
            ("W_dt", weights.StepWeight), ("b_dt", weights.StepBias), ("A_log", weights.DecayLog), ("D", weights.Skip),
            ("the norm of dt", weights.StepNorm), ("the norm of B", weights.InputNorm), ("the norm of C", weights.OutputNorm), ("the window", window),
            ("the state", state));
        if (kernel is null || Fits(x, weights, window, state, out var reason))
        {
            return kernel;
        }

        KernelDispatcher.Refused(OnCuda.Name, reason);
        return null;
    }

    /// <summary>True where dtypes and memory are as the kernel has them.</summary>
    internal static bool Fits(Tensor x, MambaStepWeights weights, Tensor window, Tensor state, out string reason)
    {
        reason = StepMemory.Misfit(
            x.dtype, [weights.ConvolutionWeight, weights.ConvolutionBias, weights.PartsWeight, weights.StepWeight, window],
            [weights.Skip, weights.StepBias, weights.DecayLog, weights.StepNorm, weights.InputNorm, weights.OutputNorm], state);
        if (reason.Length == 0 && weights.PartsWeight.size(0) is > MostParts and var parts)
        {
            reason = $"dt, B and C have {parts} numbers; the kernel takes {MostParts}";
        }

        return reason.Length == 0;
    }

    /// <summary>Runs the step; see <see cref="MambaStep.Apply"/>.</summary>
    public Tensor Apply(Tensor projected, MambaStepWeights weights, Tensor window, Tensor state, MambaStepForm form, StepBuffers buffers)
    {
        var (batch, channels, n, parts) = (state.size(0), state.size(1), state.size(2), weights.PartsWeight.size(0));
        var groups = (channels + BlockChannels - 1) / BlockChannels;
        var (convolved, sums) = (buffers.Take(state, batch, channels), buffers.Take(state, batch, groups, parts));
        var y = buffers.Take(projected, batch, 1, channels);
        var p = new MambaStepArguments
        {
            Projected = CudaRows.Address(projected),
            ConvolutionWeight = CudaRows.Address(weights.ConvolutionWeight),
            ConvolutionBias = CudaRows.Address(weights.ConvolutionBias),
            PartsWeight = CudaRows.Address(weights.PartsWeight),
            StepWeight = CudaRows.Address(weights.StepWeight),
            StepBias = CudaRows.Address(weights.StepBias),
            DecayLog = CudaRows.Address(weights.DecayLog),
            Skip = CudaRows.Address(weights.Skip),
            StepNorm = CudaRows.Address(weights.StepNorm),
            InputNorm = CudaRows.Address(weights.InputNorm),
            OutputNorm = CudaRows.Address(weights.OutputNorm),
            Window = CudaRows.Address(window),
            State = CudaRows.Address(state),
            Convolved = CudaRows.Address(convolved),
            Sums = CudaRows.Address(sums),
            Y = CudaRows.Address(y),
            Barrier = runtime.Barrier,
            Batch = batch,
            Channels = channels,
            Silu = form.Silu ? 1 : 0,
            Low = (float)form.StepMin,
            High = (float)form.StepMax,
            NormEpsilon = (float)(form.NormEpsilon ?? -1),
        };
        var pack = PackBytes / projected.element_size();
        var inPacks = channels % pack == 0 && (parts - (2 * n)) % pack == 0 && (p.PartsWeight | p.StepWeight | p.DecayLog | p.State) % PackBytes == 0;
        var program = CudaProgram.Of(
            "mamba_step.cu", projected.dtype, ("STATES", n), ("TAPS", window.size(1) + 1), ("PARTS", parts),
            ("PARAMETERS", weights.Skip.dtype == ScalarType.Float32 ? 1 : 0), ("PACKS", inPacks ? 1 : 0), ("STEP_BYTES", sizeof(MambaStepArguments)));
        runtime.LaunchTogether(program, "mamba_step", batch * groups, p);
        weights.KeepAlive();
        GC.KeepAlive(projected);
        GC.KeepAlive(window);
        GC.KeepAlive(state);
        return y;
    }
}
