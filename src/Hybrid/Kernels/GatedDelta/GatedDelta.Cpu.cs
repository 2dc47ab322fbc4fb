using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>The name of the SIMD kernel in logs.</summary>
    internal const string CpuKernel = "GatedDelta.Cpu";

    /// <summary>True where the SIMD kernel can run on the tensors of a call; otherwise <paramref name="reason"/> says why not.</summary>
    internal static bool CanRunOnCpu(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        LaneTasks.CanRun(out reason, tensors) && KernelDispatcher.Agrees(CpuKernel, CpuSelfTest, out reason);

    /// <summary>The chunked matrix form with all of a chunk in the cache, in float32 whatever the inputs are.</summary>
    internal static (Tensor O, Tensor FinalState) Cpu(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g, double scale, bool normalise, Tensor? initialState, Tensor? mask, Tensor? restart,
        bool stateGradient = true)
    {
        var x = new DeltaTensors(
            Last(q), Last(k), Last(v), Last(beta), g is null ? null : Last(g), initialState?.to_type(ScalarType.Float32).contiguous(),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous(), new DeltaKeys(scale, normalise));
        var shape = q.shape;
        var final = empty([shape[0], shape[2], shape[3], v.size(3)], dtype: ScalarType.Float32);
        if (!is_grad_enabled() || !x.All.Any(tensor => tensor?.requires_grad == true))
        {
            return (DeltaOnCpu.Forward(x, final).to_type(q.dtype), final);
        }

        var results = Recorded.apply([new Call(x, final, stateGradient), .. x.All.Where(tensor => tensor is not null).Cast<object>()]);
        return (results[0].to_type(q.dtype), stateGradient ? results[1] : final);

        static Tensor Last(Tensor tensor) => RowView.Of(tensor.to_type(ScalarType.Float32));
    }

    /// <summary>What the recorded rule gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record Call(DeltaTensors Tensors, Tensor Final, bool StateGradient);

    /// <summary>Which tensors there are, and what is done to queries and keys: what the backward pass finds the saved tensors by.</summary>
    private sealed record Layout(bool[] Present, DeltaKeys Keys);

    /// <summary>
    /// The rule with a backward pass that keeps nothing but the inputs. The final state is an output only where it can receive a gradient:
    /// TorchSharp never takes an output without gradient out of its count of tensors.
    /// </summary>
    private sealed class Recorded : autograd.MultiTensorFunction<Recorded>
    {
        public override string Name => "GatedDelta";

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (Call)vars[0];
            var o = DeltaOnCpu.Forward(call.Tensors, call.Final);
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>()]);
            ctx.save_data(nameof(Layout), new Layout([.. call.Tensors.All.Select(tensor => tensor is not null)], call.Tensors.Keys));

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            return call.StateGradient ? [o, call.Final] : [o];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var layout = (Layout)ctx.get_data(nameof(Layout));
            var saved = ctx.get_saved_variables();
            var next = 0;
            Tensor?[] all = [.. layout.Present.Select(present => present ? saved[next++] : null)];
            var gradients = RecordedGradient.IsWanted
                ? RecordedGradient.Of(x => Composed(x, layout.Keys), all, grad_outputs)
                : Gradients(DeltaTensors.From(all, layout.Keys), grad_outputs);
            return [null!, .. gradients.Where((_, i) => layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }

        private static Tensor?[] Gradients(DeltaTensors x, List<Tensor> upstream)
        {
            var gradO = upstream[0].IsInvalid ? zeros(x.V.shape, dtype: ScalarType.Float32) : RowView.Of(upstream[0]);
            var gradFinal = upstream.Count == 1 || upstream[1].IsInvalid ? null : upstream[1].contiguous();
            return DeltaOnCpu.Backward(x, gradO, gradFinal);
        }
    }

    /// <summary>The outputs from plain tensor operations, of tensors in the order of <see cref="DeltaTensors"/>.</summary>
    private static Tensor[] Composed(IReadOnlyList<Tensor?> x, DeltaKeys keys)
    {
        var (o, state) = Reference(x[0]!, x[1]!, x[2]!, x[3]!, x[4], keys.Scale, keys.Normalise, x[5], x[6], x[7]);
        return [o, state];
    }

    /// <summary>Results and gradients of a small ragged case with everything in it, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, heads = 2, keyWidth = 5, valueWidth = 19;
        const double scale = 0.7;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, heads, keyWidth), SelfTest.Values(2, 1, batch, time, heads, keyWidth),
            SelfTest.Values(3, 1, batch, time, heads, valueWidth), SelfTest.Values(4, 2, batch, time, heads).sigmoid(),
            SelfTest.Values(5, 1, batch, time, heads).exp().mul(-0.1), SelfTest.Values(6, 1, batch, heads, keyWidth, valueWidth),
        ];
        var upstream = SelfTest.Values(7, 1, batch, time, heads, valueWidth);
        var fast = Results(ScalarType.Float32, x => Cpu(x[0], x[1], x[2], x[3], x[4], scale, true, x[5], null, null));
        var reference = Results(ScalarType.Float64, x => Reference(x[0], x[1], x[2], x[3], x[4], scale, true, x[5], null, null));
        return SelfTest.Compare(reference, fast, 1e-4);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor O, Tensor State)> run)
        {
            var x = inputs.Select(input => input.to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (o, state) = run(x);
            ((o * upstream.to_type(dtype)).sum() + state.sum()).backward();
            return [o.detach(), state.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
