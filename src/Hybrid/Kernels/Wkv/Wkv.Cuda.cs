using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class Wkv
{
    /// <summary>The name of the CUDA kernels in logs.</summary>
    internal const string CudaKernel = "Wkv.Cuda";

    /// <summary>The kernels of the device that the tensors of a call are on; null, with a line in the log, where they cannot run.</summary>
    /// <param name="key">The keys, by whose device it is a call for CUDA.</param>
    /// <param name="others">The other tensors of the call under their names.</param>
    internal static WkvOnCuda? OnCuda(Tensor key, params ReadOnlySpan<(string Name, Tensor? Tensor)> others)
    {
        if (key.device_type != DeviceType.CUDA)
        {
            return null;
        }

        if (CudaRuntime.TryGet(out var runtime, out var reason, [(nameof(key), key), .. others])
            && KernelDispatcher.Agrees($"{CudaKernel} {runtime.Device}", () => CudaSelfTest(new WkvOnCuda(runtime), runtime.TorchDevice), out reason))
        {
            return new WkvOnCuda(runtime);
        }

        KernelDispatcher.Refused(CudaKernel, reason);
        return null;
    }

    /// <summary>Both forms in kernels over chunks of time, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, WkvState FinalState) Cuda(
        WkvOnCuda kernel, WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, WkvState? initialState, Tensor? mask, Tensor? restart,
        bool stateGradient = true)
    {
        var rows = key.dtype == value.dtype && CudaProgram.Holds(key.dtype) ? key.dtype : ScalarType.Float32;
        var (sums, maximum) = InitialState(initialState?.Numerator, initialState?.Denominator, initialState?.Maximum, key, ScalarType.Float32);
        var (numerator, denominator) = initialState is null ? ((Tensor?)null, (Tensor?)null) : (sums.select(1, 0).contiguous(), sums.select(1, 1).contiguous());
        var x = new WkvTensors(
            LogDecay(form, decay.to_type(ScalarType.Float32)).contiguous(), bonus.to_type(ScalarType.Float32).contiguous(),
            RowView.Of(key.to_type(rows)), RowView.Of(value.to_type(rows)), numerator, denominator, initialState is null ? null : maximum.contiguous(),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous());
        if (!is_grad_enabled() || !x.All.Any(tensor => tensor?.requires_grad == true))
        {
            var (y, last, _) = kernel.Forward(x, keep: false);
            return (y.to_type(key.dtype), last);
        }

        var call = new WkvCall(kernel, x, stateGradient);
        var results = Recorded.apply([call, .. x.All.Where(tensor => tensor is not null).Cast<object>()]);
        var final = call.Final!.Value;
        return (results[0].to_type(key.dtype), stateGradient ? final with { Numerator = results[1], Denominator = results[2] } : final);
    }

    /// <summary>What the recorded mean gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record WkvCall(WkvOnCuda Kernel, WkvTensors Tensors, bool StateGradient)
    {
        /// <summary>The state after the last step, once it is there.</summary>
        public WkvState? Final { get; set; }
    }

    /// <summary>Where a mean runs and which tensors it has.</summary>
    private sealed record WkvLayout(WkvOnCuda Kernel, bool[] Present);

    /// <summary>
    /// The mean with a backward pass that keeps the inputs and some states. Numerator and denominator are outputs only where they can receive
    /// a gradient: TorchSharp never takes an output without gradient out of its count of tensors.
    /// </summary>
    private sealed class Recorded : autograd.MultiTensorFunction<Recorded>
    {
        public override string Name => "Wkv";

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (WkvCall)vars[0];
            var (y, final, kept) = call.Kernel.Forward(call.Tensors, keep: true);
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>(), kept!]);
            ctx.save_data(nameof(WkvLayout), new WkvLayout(call.Kernel, [.. call.Tensors.All.Select(tensor => tensor is not null)]));

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            call.Final = final;
            return call.StateGradient ? [y, final.Numerator, final.Denominator] : [y];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var layout = (WkvLayout)ctx.get_data(nameof(WkvLayout));
            var saved = ctx.get_saved_variables();
            var next = 0;
            Tensor?[] all = [.. layout.Present.Select(present => present ? saved[next++] : null)];
            return RecordedGradient.IsWanted
                ? Results(RecordedGradient.Of(Reference, all, grad_outputs))
                : Results(Gradients(layout.Kernel, WkvTensors.From(all), saved[next], grad_outputs));

            List<Tensor> Results(Tensor?[] gradients) =>
                [null!, .. gradients.Where((_, i) => layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }

        private static IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> all)
        {
            var x = WkvTensors.From(all);
            var state = x.Numerator is null ? (WkvState?)null : new WkvState(x.Numerator, x.Denominator!, x.Maximum!);
            var (y, final) = Wkv.Reference(x.LogDecay.Dimensions == 3, x.LogDecay, x.Bonus, x.Key, x.Value, null, state, x.Mask, x.Restart);
            return [y, final.Numerator, final.Denominator];
        }

        private static Tensor?[] Gradients(WkvOnCuda kernel, WkvTensors x, Tensor kept, List<Tensor> grad_outputs)
        {
            var gradY = grad_outputs[0].IsInvalid ? zeros_like(x.Key).contiguous() : RowView.Of(grad_outputs[0]);
            var (numerator, denominator) = (Given(1), Given(2));
            return kernel.Backward(x, kept, gradY, numerator ?? Zeros(denominator), denominator ?? Zeros(numerator));

            Tensor? Given(int output) => grad_outputs.Count <= output || grad_outputs[output].IsInvalid ? null : grad_outputs[output].contiguous();

            static Tensor? Zeros(Tensor? other) => other is null ? null : zeros_like(other);
        }
    }

    /// <summary>The self-test: results and gradients of both forms, small and ragged, against the reference in float64.</summary>
    private static string? CudaSelfTest(WkvOnCuda kernel, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 135, channels = 19;
        return Difference(WkvForm.DataDependent, SelfTest.Values(1, 2, batch, time, channels)) ?? Difference(WkvForm.Rwkv4, SelfTest.Values(1, 2, channels));

        string? Difference(WkvForm form, Tensor decay)
        {
            Tensor[] inputs =
            [
                decay, SelfTest.Values(2, 1, channels), SelfTest.Values(3, 3, batch, time, channels), SelfTest.Values(4, 1, batch, time, channels),
                SelfTest.Values(5, 2, batch, channels), SelfTest.Values(6, 1, batch, channels).exp(), SelfTest.Values(7, 1, batch, channels),
            ];
            var upstream = SelfTest.Values(8, 1, batch, time, channels).to(device);
            var fast = Results(ScalarType.Float32, x => Cuda(kernel, form, x[0], x[1], x[2], x[3], new(x[4], x[5], x[6]), null, null));
            var slow = Results(ScalarType.Float64, x => Reference(form, x[0], x[1], x[2], x[3], null, new(x[4], x[5], x[6]), null, null));
            return SelfTest.Compare(slow, fast, 1e-4);

            List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor Y, WkvState State)> run)
            {
                var x = inputs.Select(input => input.to(device).to_type(dtype).clone().requires_grad_(true)).ToArray();
                var (y, state) = run(x);
                ((y * upstream.to_type(dtype)).sum() + state.Numerator.sum() + state.Denominator.sum()).backward();
                return [y.detach(), state.Numerator.detach(), state.Denominator.detach(), .. x.Select(leaf => leaf.grad!)];
            }
        }
    }
}
