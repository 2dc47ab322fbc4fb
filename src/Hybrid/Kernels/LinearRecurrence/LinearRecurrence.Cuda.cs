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
        if (!is_grad_enabled() || !tensors.All.Any(tensor => tensor?.requires_grad == true))
        {
            var (states, last) = kernel.Forward(tensors);
            return (states.to_type(x.dtype), last);
        }

        var call = new RecurrenceCall(kernel, tensors, stateGradient);
        var results = Recorded.apply([call, .. tensors.All.Where(tensor => tensor is not null).Cast<object>()]);
        return (results[0].to_type(x.dtype), stateGradient ? results[1] : call.Final!);
    }

    /// <summary>What the recorded recurrence gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record RecurrenceCall(RecurrenceOnCuda Kernel, RecurrenceTensors Tensors, bool StateGradient)
    {
        /// <summary>The final state, once it is there.</summary>
        public Tensor? Final { get; set; }
    }

    /// <summary>Where a recurrence runs and which tensors it has.</summary>
    private sealed record RecurrenceLayout(RecurrenceOnCuda Kernel, bool[] Present);

    /// <summary>
    /// The recurrence with a backward pass that keeps the inputs and the states. The final state is an output only where it can receive a
    /// gradient: TorchSharp never takes an output without gradient out of its count of tensors.
    /// </summary>
    private sealed class Recorded : autograd.MultiTensorFunction<Recorded>
    {
        public override string Name => "LinearRecurrence";

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (RecurrenceCall)vars[0];
            var (y, final) = call.Kernel.Forward(call.Tensors);

            // Not the output itself, whose history leads here.
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>(), y.detach()]);
            ctx.save_data(nameof(RecurrenceLayout), new RecurrenceLayout(call.Kernel, [.. call.Tensors.All.Select(tensor => tensor is not null)]));

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            call.Final = final;
            return call.StateGradient ? [y, final] : [y];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var layout = (RecurrenceLayout)ctx.get_data(nameof(RecurrenceLayout));
            var saved = ctx.get_saved_variables();
            var next = 0;
            Tensor?[] all = [.. layout.Present.Select(present => present ? saved[next++] : null)];
            return RecordedGradient.IsWanted
                ? Results(RecordedGradient.Of(Reference, all, grad_outputs))
                : Results(Gradients(layout.Kernel, RecurrenceTensors.From(all), saved[next], grad_outputs));

            List<Tensor> Results(Tensor?[] gradients) =>
                [null!, .. gradients.Where((_, i) => layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }

        private static IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> x)
        {
            // The kernel's outputs are float32 whatever its inputs are.
            var (y, state) = LinearRecurrence.Reference(x[0]!.to_type(ScalarType.Float32), x[1]!, x[2], x[3], x[4]);
            return [y, state];
        }

        private static Tensor?[] Gradients(RecurrenceOnCuda kernel, RecurrenceTensors x, Tensor y, List<Tensor> grad_outputs)
        {
            var gradY = grad_outputs[0].IsInvalid ? zeros_like(y) : grad_outputs[0].contiguous();
            var gradFinal = grad_outputs.Count == 1 || grad_outputs[1].IsInvalid ? null : grad_outputs[1].contiguous();
            return kernel.Backward(x, y, gradY, gradFinal);
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
        var upstream = SelfTest.Values(4, 1, batch, time, channels).to(device);
        var fast = Results(ScalarType.Float32, x => Cuda(kernel, x[0], x[1], x[2], null, null));
        return SelfTest.Compare(Results(ScalarType.Float64, x => Reference(x[0], x[1], x[2], null, null)), fast, 1e-4);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor Y, Tensor State)> run)
        {
            var x = inputs.Select(input => input.to(device).to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            ((y * upstream.to_type(dtype)).sum() + state.sum()).backward();
            return [y.detach(), state.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
