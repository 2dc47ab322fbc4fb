using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The root-mean-square norm and its gated forms on CUDA, in float32 whatever the tensors are: one kernel forward and two backward, which keep
/// the inputs and one number a row.
/// </summary>
internal static class CudaNorm
{
    /// <summary>The device on which the kernels can run. Otherwise null, and the dispatcher logs why not.</summary>
    /// <param name="tensors">All tensors of the call under their names, of one dtype but for a float32 weight; null ones are none.</param>
    public static NormOnCuda? For(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        if (CudaRuntime.TryGet(out var runtime, out var reason, tensors))
        {
            var norm = new NormOnCuda(runtime);
            if (KernelDispatcher.Agrees($"{nameof(CudaNorm)} {runtime.Device}", () => Compare(norm, runtime.TorchDevice), out reason))
            {
                return norm;
            }
        }

        KernelDispatcher.Refused(nameof(CudaNorm), reason);
        return null;
    }

    /// <summary>Normalises.</summary>
    /// <param name="norm">Where.</param>
    /// <param name="x">[..., width].</param>
    /// <param name="z">Gate, before its SiLU: the shape of <paramref name="x"/>; null for none.</param>
    /// <param name="weight">[width].</param>
    /// <param name="form">What is computed.</param>
    /// <returns>The shape and dtype of <paramref name="x"/>, in the current dispose scope.</returns>
    public static Tensor Apply(NormOnCuda norm, Tensor x, Tensor? z, Tensor weight, CudaNormForm form)
    {
        using var scope = NewDisposeScope();
        var tensors = new NormTensors(x.contiguous(), z?.to_type(x.dtype).contiguous(), weight.to_type(ScalarType.Float32).contiguous());
        var graded = is_grad_enabled() && (x.requires_grad || weight.requires_grad || z?.requires_grad == true);
        object[] inputs = tensors.Z is null ? [tensors.X, tensors.Weight] : [tensors.X, tensors.Weight, tensors.Z];
        var y = graded ? Recorded.apply([new NormCall(norm, form), .. inputs]) : norm.Forward(tensors, form, keep: false).Y;
        return y.MoveToOuterDisposeScope();
    }

    /// <summary>The self-test: outputs and gradients of each form against tensor operations, with a width for a warp and one for a block.</summary>
    private static string? Compare(NormOnCuda norm, Device device)
    {
        using var scope = NewDisposeScope();
        foreach (var (form, gated, width) in new[]
        {
            (new CudaNormForm(0.1), false, 37), (new CudaNormForm(0.1, 2), true, 74), (new CudaNormForm(0.1, 1, true), true, 600),
        })
        {
            Tensor[] inputs = [SelfTest.Values(1, 2, 3, width), SelfTest.Values(2, 1, width), SelfTest.Values(3, 2, 3, width)];
            var upstream = SelfTest.Values(4, 1, 3, width).to(device);
            var fast = Results(ScalarType.Float32, x => Apply(norm, x[0], gated ? x[2] : null, x[1], form));
            var reference = Results(ScalarType.Float64, x => Composed(x[0], gated ? x[2] : null, x[1], form));
            if (SelfTest.Compare(reference, fast, 1e-5) is { } difference)
            {
                return $"{form}: {difference}";
            }

            List<Tensor> Results(ScalarType dtype, Func<Tensor[], Tensor> run)
            {
                var leaves = inputs.Take(gated ? 3 : 2).Select(input => input.to(device).to_type(dtype).clone().requires_grad_(true)).ToArray();
                var y = run(leaves);
                (y * upstream.to_type(dtype)).sum().backward();
                return [y.detach(), .. leaves.Select(leaf => leaf.grad!)];
            }
        }

        return null;
    }

    /// <summary>The same from tensor operations, in the precision of the weight.</summary>
    internal static Tensor Composed(Tensor x, Tensor? z, Tensor weight, CudaNormForm form)
    {
        var (wide, gate, shape) = (x.to_type(weight.dtype), z?.to_type(weight.dtype).silu(), x.shape);
        var value = gate is null || form.NormBeforeGate ? wide : wide * gate;
        var grouped = value.reshape([.. shape[..^1], form.Groups, shape[^1] / form.Groups]);
        var scaled = (grouped * (grouped.square().mean([-1], keepdim: true) + form.Epsilon).rsqrt()).reshape(shape) * weight;
        return (gate is not null && form.NormBeforeGate ? scaled * gate : scaled).to_type(x.dtype);
    }

    /// <summary>What the recorded norm gets besides its tensors.</summary>
    private sealed record NormCall(NormOnCuda Norm, CudaNormForm Form);

    private sealed class Recorded : autograd.SingleTensorFunction<Recorded>
    {
        public override string Name => nameof(CudaNorm);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (norm, form) = (NormCall)vars[0];
            var tensors = new NormTensors((Tensor)vars[1], vars.Length > 3 ? (Tensor)vars[3] : null, (Tensor)vars[2]);
            var (y, inverse) = norm.Forward(tensors, form, keep: true);
            ctx.save_for_backward([inverse!, .. vars.Skip(1).Cast<Tensor>()]);
            ctx.save_data(nameof(NormCall), vars[0]);
            ctx.set_materialize_grads(false);
            return y;
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            using var scope = NewDisposeScope();
            var saved = ctx.get_saved_variables();
            if (grad_output.IsInvalid)
            {
                return [.. saved.Select(_ => (Tensor)null!)];
            }

            var (norm, form) = (NormCall)ctx.get_data(nameof(NormCall));
            if (RecordedGradient.IsWanted)
            {
                Tensor?[] inputs = [.. saved.Skip(1)];
                var recorded = RecordedGradient.Of(x => [Composed(x[0]!, x.ElementAtOrDefault(2), x[1]!, form)], inputs, [grad_output]);
                return [null!, .. recorded.Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
            }

            var tensors = new NormTensors(saved[1], saved.Count > 3 ? saved[3] : null, saved[2]);
            var (x, z, weight) = norm.Backward(tensors, form, saved[0], grad_output.contiguous());
            List<Tensor> gradients = [null!, x.MoveToOuterDisposeScope(), weight.MoveToOuterDisposeScope()];
            return z is null ? gradients : [.. gradients, z.MoveToOuterDisposeScope()];
        }
    }
}
