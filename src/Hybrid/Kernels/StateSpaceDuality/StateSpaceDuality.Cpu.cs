using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class StateSpaceDuality
{
    /// <summary>The name of the SIMD kernel in logs.</summary>
    internal const string CpuKernel = "StateSpaceDuality.Cpu";

    /// <summary>True where the SIMD kernel can run on the tensors of a call; otherwise <paramref name="reason"/> says why not.</summary>
    internal static bool CanRunOnCpu(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        LaneTasks.CanRun(out reason, tensors) && KernelDispatcher.Agrees(CpuKernel, CpuSelfTest, out reason);

    /// <summary>The chunked matrix form with all of a chunk in the cache, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dtBias, ScanSteps steps, Tensor? initialState, Tensor? mask,
        Tensor? restart, bool stateGradient = true)
    {
        var tensors = new DualityTensors(
            Last(x), Last(dt), Whole(A)!, Last(B), Last(C), Whole(D), z is null ? null : Last(z), Whole(dtBias), Whole(initialState),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous(), steps);
        var (shape, stateSize) = (x.shape, B.size(3));
        var final = empty([shape[0], shape[2], shape[3], stateSize], dtype: ScalarType.Float32);
        if (!is_grad_enabled() || !tensors.All.Any(tensor => tensor?.requires_grad == true))
        {
            return (DualityOnCpu.Forward(tensors, final).to_type(x.dtype), final);
        }

        var results = Recorded.apply([new Call(tensors, final, stateGradient), .. tensors.All.Where(tensor => tensor is not null).Cast<object>()]);
        return (results[0].to_type(x.dtype), stateGradient ? results[1] : final);

        static Tensor Last(Tensor tensor) => RowView.Of(tensor.to_type(ScalarType.Float32));

        static Tensor? Whole(Tensor? tensor) => tensor?.to_type(ScalarType.Float32).contiguous();
    }

    /// <summary>What the recorded recurrence gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record Call(DualityTensors Tensors, Tensor Final, bool StateGradient);

    /// <summary>Which tensors there are, and the step sizes: what the backward pass finds the saved tensors by.</summary>
    private sealed record Layout(bool[] Present, ScanSteps Steps);

    /// <summary>
    /// The recurrence with a backward pass that keeps nothing but the inputs. The final state is an output only where it can receive a gradient:
    /// TorchSharp never takes an output without gradient out of its count of tensors.
    /// </summary>
    private sealed class Recorded : autograd.MultiTensorFunction<Recorded>
    {
        public override string Name => "StateSpaceDuality";

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (Call)vars[0];
            var y = DualityOnCpu.Forward(call.Tensors, call.Final);
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>()]);
            ctx.save_data(nameof(Layout), new Layout([.. call.Tensors.All.Select(tensor => tensor is not null)], call.Tensors.Steps));

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            return call.StateGradient ? [y, call.Final] : [y];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var layout = (Layout)ctx.get_data(nameof(Layout));
            var saved = ctx.get_saved_variables();
            var next = 0;
            Tensor?[] all = [.. layout.Present.Select(present => present ? saved[next++] : null)];
            var gradients = RecordedGradient.IsWanted
                ? RecordedGradient.Of(x => Composed(x, layout.Steps), all, grad_outputs)
                : Gradients(DualityTensors.From(all, layout.Steps), grad_outputs);
            return [null!, .. gradients.Where((_, i) => layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }

        private static Tensor?[] Gradients(DualityTensors x, List<Tensor> upstream)
        {
            var gradY = upstream[0].IsInvalid ? zeros(x.X.shape, dtype: ScalarType.Float32) : RowView.Of(upstream[0]);
            var gradFinal = upstream.Count == 1 || upstream[1].IsInvalid ? null : upstream[1].contiguous();
            return DualityOnCpu.Backward(x, gradY, gradFinal);
        }
    }

    /// <summary>The outputs from plain tensor operations, of tensors in the order of <see cref="DualityTensors"/>.</summary>
    private static Tensor[] Composed(IReadOnlyList<Tensor?> x, ScanSteps steps)
    {
        var (y, state) = Reference(
            x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], steps.Softplus, steps.Min, steps.Max, x[8], x[9], x[10], DefaultChunkSize);
        return [y, state];
    }

    /// <summary>Results and gradients of a small ragged case with everything in it, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, heads = 4, width = 19, groups = 2, n = 5;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, heads, width), SelfTest.Values(2, 2, batch, time, heads), SelfTest.Values(3, 1, heads).exp().neg(),
            SelfTest.Values(4, 1, batch, time, groups, n), SelfTest.Values(5, 1, batch, time, groups, n), SelfTest.Values(6, 1, heads, width),
            SelfTest.Values(7, 3, batch, time, heads, width), SelfTest.Values(8, 1, heads), SelfTest.Values(9, 1, batch, heads, width, n),
        ];
        var (steps, upstream) = (new ScanSteps(true, null, null), SelfTest.Values(10, 1, batch, time, heads, width));
        var fast = Results(ScalarType.Float32, x => Cpu(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null));
        var reference = Results(
            ScalarType.Float64, x => Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], true, null, null, x[8], null, null, DefaultChunkSize));
        return SelfTest.Compare(reference, fast, 1e-4);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor Y, Tensor State)> run)
        {
            var x = inputs.Select(input => input.to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            ((y * upstream.to_type(dtype)).sum() + state.sum()).backward();
            return [y.detach(), state.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
