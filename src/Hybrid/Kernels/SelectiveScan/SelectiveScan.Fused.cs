using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class SelectiveScan
{
    /// <summary>The whole scan in kernels of its own, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, Tensor FinalState) Fused(
        IScanDevice device, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? deltaBias, ScanSteps steps,
        Tensor? initialState, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var dtype = device.RowType(new[] { u, delta, z, B, C }.OfType<Tensor>());
        var x = new ScanTensors(
            Rows(u), Rows(delta), Whole(A)!, Matrix(B), Matrix(C), Whole(D), z is null ? null : Rows(z), Whole(deltaBias), Whole(initialState),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous(), steps);
        var shape = u.shape;
        var final = empty([shape[0], shape[2], A.size(1)], dtype: ScalarType.Float32, device: u.device);
        if (!is_grad_enabled() || !x.All.Any(tensor => tensor?.requires_grad == true))
        {
            return (device.Forward(x, final, keep: false).Y.to_type(u.dtype), final);
        }

        var results = Recorded.apply([new ScanCall(device, x, final, stateGradient), .. x.All.Where(tensor => tensor is not null).Cast<object>()]);
        return (results[0].to_type(u.dtype), stateGradient ? results[1] : final);

        Tensor Rows(Tensor rows) => RowView.Of(rows.to_type(dtype));

        static Tensor? Whole(Tensor? tensor) => tensor?.to_type(ScalarType.Float32).contiguous();

        Tensor Matrix(Tensor matrix) => matrix.Dimensions == 2 ? matrix.to_type(dtype).contiguous() : Rows(matrix);
    }

    /// <summary>What the recorded scan gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record ScanCall(IScanDevice Device, ScanTensors Tensors, Tensor Final, bool StateGradient);

    /// <summary>Where a scan runs, which tensors it has, and its step sizes: what the backward pass finds the saved tensors by.</summary>
    private sealed record ScanLayout(IScanDevice Device, bool[] Present, ScanSteps Steps);

    /// <summary>
    /// The scan with a backward pass that keeps the inputs and the states at chunk boundaries. The final state is an output only where it
    /// can receive a gradient: TorchSharp never takes an output without gradient out of its count of tensors.
    /// </summary>
    private sealed class Recorded : autograd.MultiTensorFunction<Recorded>
    {
        public override string Name => "SelectiveScan";

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (ScanCall)vars[0];
            var x = call.Tensors;
            var (y, kept) = call.Device.Forward(x, call.Final, keep: true);
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>(), kept!]);
            ctx.save_data(nameof(ScanLayout), new ScanLayout(call.Device, [.. x.All.Select(tensor => tensor is not null)], x.Steps));

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            return call.StateGradient ? [y, call.Final] : [y];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var layout = (ScanLayout)ctx.get_data(nameof(ScanLayout));
            var saved = ctx.get_saved_variables();
            var next = 0;
            Tensor?[] all = [.. layout.Present.Select(present => present ? saved[next++] : null)];
            return RecordedGradient.IsWanted
                ? Results(RecordedGradient.Of(x => Reference(x, layout.Steps), all, grad_outputs))
                : Results(Gradients(layout.Device, ScanTensors.From(all, layout.Steps), saved[next], grad_outputs));

            List<Tensor> Results(Tensor?[] gradients) =>
                [null!, .. gradients.Where((_, i) => layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }

        private static IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> x, ScanSteps steps)
        {
            var (y, state) = SelectiveScan.Reference(x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], steps, x[8], x[9], x[10]);
            return [y, state];
        }

        private static Tensor?[] Gradients(IScanDevice device, ScanTensors x, Tensor kept, List<Tensor> grad_outputs)
        {
            var gradY = grad_outputs[0].IsInvalid ? zeros(x.U.shape, dtype: x.U.dtype, device: x.U.device) : RowView.Of(grad_outputs[0]);
            var gradFinal = grad_outputs.Count == 1 || grad_outputs[1].IsInvalid ? null : grad_outputs[1].contiguous();
            return device.Backward(x, kept, gradY, gradFinal);
        }
    }

    /// <summary>The self-test: results and gradients of a small ragged scan with everything in it, against the reference in float64.</summary>
    private static string? SelfTestOf(IScanDevice scan, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, channels = 19, n = 3;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 2, batch, time, channels), SelfTest.Values(3, 1, channels, n).exp().neg(),
            SelfTest.Values(4, 1, batch, time, n), SelfTest.Values(5, 1, batch, time, n), SelfTest.Values(6, 1, channels),
            SelfTest.Values(7, 3, batch, time, channels), SelfTest.Values(8, 1, channels), SelfTest.Values(9, 1, batch, channels, n),
        ];
        var (steps, upstream) = (new ScanSteps(true, null, null), SelfTest.Values(10, 1, batch, time, channels).to(device));
        var fast = Results(ScalarType.Float32, x => Fused(scan, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null));
        var reference = Results(ScalarType.Float64, x => Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null));
        return SelfTest.Compare(reference, fast, 1e-4);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor Y, Tensor State)> run)
        {
            var x = inputs.Select(input => input.to(device).to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            ((y * upstream.to_type(dtype)).sum() + state.sum()).backward();
            return [y.detach(), state.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
