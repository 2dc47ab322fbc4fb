using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class SelectiveScan
{
    /// <summary>The name of the SIMD kernel in logs and metrics.</summary>
    internal const string CpuKernel = "SelectiveScan.Cpu";

    /// <summary>True where the SIMD kernel can run on the tensors of a call; otherwise <paramref name="reason"/> says why not.</summary>
    internal static bool CanRunOnCpu(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        LaneTasks.CanRun(out reason, tensors) && KernelDispatcher.Agrees(CpuKernel, CpuSelfTest, out reason);

    /// <summary>The whole scan as one SIMD pass over time, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? deltaBias, ScanSteps steps, Tensor? initialState, Tensor? mask,
        Tensor? restart, bool stateGradient = true)
    {
        var x = new ScanTensors(
            Rows(u), Rows(delta), Whole(A)!, Matrix(B), Matrix(C), Whole(D), z is null ? null : Rows(z), Whole(deltaBias), Whole(initialState),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous(), steps);
        var sizes = new ScanSizes(x);
        var final = empty([sizes.Batch, sizes.Channels, sizes.StateSize], dtype: ScalarType.Float32);
        if (!is_grad_enabled() || !x.All.Any(tensor => tensor?.requires_grad == true))
        {
            return (ScanOnCpu.Forward(x, sizes, final, null).to_type(u.dtype), final);
        }

        var results = Recorded.apply([new ScanCall(x, final, stateGradient), .. x.All.Where(tensor => tensor is not null).Cast<object>()]);
        return (results[0].to_type(u.dtype), stateGradient ? results[1] : final);

        static Tensor Rows(Tensor rows) => RowView.Of(rows.to_type(ScalarType.Float32));

        static Tensor? Whole(Tensor? tensor) => tensor?.to_type(ScalarType.Float32).contiguous();

        static Tensor Matrix(Tensor matrix) => matrix.Dimensions == 2 ? Whole(matrix)! : Rows(matrix);
    }

    /// <summary>What the recorded scan gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record ScanCall(ScanTensors Tensors, Tensor Final, bool StateGradient);

    /// <summary>Which tensors of a scan there are, and its step sizes: what the backward pass finds the saved tensors by.</summary>
    private sealed record ScanLayout(bool[] Present, ScanSteps Steps);

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
            var sizes = new ScanSizes(x);
            var boundaries = empty(sizes.BoundaryCount, dtype: ScalarType.Float32);
            var y = ScanOnCpu.Forward(x, sizes, call.Final, boundaries);
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>(), boundaries]);
            ctx.save_data(nameof(ScanLayout), new ScanLayout([.. x.All.Select(tensor => tensor is not null)], x.Steps));

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
                : Results(Gradients(ScanTensors.From(all, layout.Steps), saved[next], grad_outputs));

            List<Tensor> Results(Tensor?[] gradients) =>
                [null!, .. gradients.Where((_, i) => layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }

        private static IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> x, ScanSteps steps)
        {
            var (y, state) = SelectiveScan.Reference(x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], steps, x[8], x[9], x[10]);
            return [y, state];
        }

        private static Tensor?[] Gradients(ScanTensors x, Tensor boundaries, List<Tensor> grad_outputs)
        {
            var sizes = new ScanSizes(x);
            var gradY = grad_outputs[0].IsInvalid ? zeros([sizes.Batch, sizes.Time, sizes.Channels], dtype: ScalarType.Float32) : RowView.Of(grad_outputs[0]);
            var gradFinal = grad_outputs.Count == 1 || grad_outputs[1].IsInvalid ? null : grad_outputs[1].contiguous();
            return ScanOnCpu.Backward(x, sizes, boundaries, gradY, gradFinal);
        }
    }

    /// <summary>Results and gradients of a small ragged scan with everything in it, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, channels = 19, n = 3;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 2, batch, time, channels), SelfTest.Values(3, 1, channels, n).exp().neg(),
            SelfTest.Values(4, 1, batch, time, n), SelfTest.Values(5, 1, batch, time, n), SelfTest.Values(6, 1, channels),
            SelfTest.Values(7, 3, batch, time, channels), SelfTest.Values(8, 1, channels), SelfTest.Values(9, 1, batch, channels, n),
        ];
        var (steps, upstream) = (new ScanSteps(true, null, null), SelfTest.Values(10, 1, batch, time, channels));
        var fast = Results(ScalarType.Float32, x => Cpu(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null));
        var reference = Results(ScalarType.Float64, x => Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null));
        return SelfTest.Compare(reference, fast, 1e-4);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor Y, Tensor State)> scan)
        {
            var x = inputs.Select(input => input.to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (y, state) = scan(x);
            ((y * upstream.to_type(dtype)).sum() + state.sum()).backward();
            return [y.detach(), state.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
