using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class LinearRecurrence
{
    /// <summary>The name of the CUDA kernels in logs.</summary>
    internal const string CudaKernel = "LinearRecurrence.Cuda";

    /// <summary>The kernels of the device that the tensors of a call are on; null, with a line in the log, where they cannot run.</summary>
    /// <param name="x">The input, by whose device it is a call for CUDA.</param>
    /// <param name="others">The other tensors of the call under their names.</param>
    internal static RecurrenceOnCuda? OnCuda(Tensor x, params ReadOnlySpan<(string Name, Tensor? Tensor)> others)
    {
        if (x.device_type != DeviceType.CUDA)
        {
            return null;
        }

        if (CudaRuntime.TryGet(out var runtime, out var reason, [(nameof(x), x), .. others])
            && KernelDispatcher.Agrees($"{CudaKernel} {runtime.Device}", () => CudaSelfTest(new RecurrenceOnCuda(runtime), runtime.TorchDevice), out reason))
        {
            return new RecurrenceOnCuda(runtime);
        }

        KernelDispatcher.Refused(CudaKernel, reason);
        return null;
    }

    /// <summary>The recurrence in kernels over chunks of time, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, Tensor FinalState) Cuda(
        RecurrenceOnCuda kernel, Tensor x, Tensor logDecay, Tensor? initialState, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var rows = x.dtype == logDecay.dtype && CudaProgram.Holds(x.dtype) ? x.dtype : ScalarType.Float32;
        var tensors = new RecurrenceTensors(
            RowView.Of(x.to_type(rows)), RowView.Of(logDecay.to_type(rows)), initialState?.to_type(ScalarType.Float32).contiguous(),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous());
        var (y, final) = RecordedKernel.Run(new Recurrence(kernel), tensors.All, stateGradient ? 1 : 0);
        return (y.to_type(x.dtype), final[0]);
    }

    /// <summary>The recurrence with a backward pass that keeps the inputs, in the order of <see cref="RecurrenceTensors"/>, and the states.</summary>
    private sealed record Recurrence(RecurrenceOnCuda Kernel) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var (y, final) = Kernel.Forward(RecurrenceTensors.From(inputs));

            // Not the output itself, whose history leads here.
            return (y, [final], keep ? y.detach() : null);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal) => Kernel.Backward(
            RecurrenceTensors.From(inputs), kept!, gradY is null ? zeros_like(kept!) : gradY.contiguous(), gradFinal.ElementAtOrDefault(0)?.contiguous());

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> x)
        {
            // The kernel's outputs are float32 whatever its inputs are.
            var (y, state) = LinearRecurrence.Reference(x[0]!.to_type(ScalarType.Float32), x[1]!, x[2], x[3], x[4]);
            return [y, state];
        }
    }

    /// <summary>The self-test: results and gradients of a small ragged recurrence, against the reference in float64.</summary>
    private static string? CudaSelfTest(RecurrenceOnCuda kernel, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 135, channels = 19;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 2, batch, time, channels).exp().neg(), SelfTest.Values(3, 1, batch, channels),
        ];
        return SelfTest.Difference(
            inputs, 1e-4, x => Cuda(kernel, x[0], x[1], x[2], null, null), x => Reference(x[0], x[1], x[2], null, null), device);
    }
}
