using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// A fast kernel as autograd records it, of inputs in a fixed order, of which some may be null. It holds no tensors: it lives as long as the
/// graph that it is recorded in.
/// </summary>
internal interface IRecordedKernel
{
    /// <summary>The forward pass.</summary>
    /// <param name="inputs">The inputs.</param>
    /// <param name="keep">True where a backward pass will follow.</param>
    /// <returns>y, the states after the last step, and what the backward pass needs besides the inputs; null for nothing.</returns>
    (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep);

    /// <summary>The backward pass. At least one gradient arrives.</summary>
    /// <param name="inputs">The inputs.</param>
    /// <param name="kept">What the forward pass kept.</param>
    /// <param name="gradY">Gradient of y, or null.</param>
    /// <param name="gradFinal">Gradients of those states that are outputs to autograd, each or null.</param>
    /// <returns>A gradient an input, in its order; null where there is none.</returns>
    Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal);

    /// <summary>y and the states from plain tensor operations, for derivatives of gradients.</summary>
    /// <param name="inputs">The inputs.</param>
    IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs);
}

/// <summary>Runs kernels, recorded where a gradient may be asked for.</summary>
internal static class RecordedKernel
{
    /// <summary>Runs a kernel.</summary>
    /// <param name="kernel">The kernel.</param>
    /// <param name="inputs">Its inputs.</param>
    /// <param name="differentiableStates">
    /// The first so many states are outputs to autograd; the others are constants to it. A state that never receives a gradient must not be
    /// an output: TorchSharp never takes it out of its count of tensors.
    /// </param>
    /// <returns>y and the states after the last step, in the current dispose scope.</returns>
    public static (Tensor Y, Tensor[] Final) Run<TKernel>(TKernel kernel, Tensor?[] inputs, int differentiableStates)
        where TKernel : class, IRecordedKernel
    {
        if (!is_grad_enabled() || !inputs.Any(input => input?.requires_grad == true))
        {
            var (y, final, _) = kernel.Forward(inputs, keep: false);
            return (y, final);
        }

        var call = new Call<TKernel>(kernel, inputs, differentiableStates);
        var results = Function<TKernel>.apply([call, .. inputs.Where(input => input is not null).Cast<object>()]);
        return (results[0], [.. results.Skip(1), .. call.Final.Skip(differentiableStates)]);
    }

    /// <summary>What a call gets besides its tensors, which autograd needs as arguments of their own.</summary>
    private sealed record Call<TKernel>(TKernel Kernel, Tensor?[] Inputs, int DifferentiableStates)
    {
        /// <summary>The states after the last step, once they are there.</summary>
        public Tensor[] Final { get; set; } = [];
    }

    /// <summary>What the backward pass finds the saved tensors by.</summary>
    private sealed record Layout<TKernel>(TKernel Kernel, bool[] Present);

    private sealed class Function<TKernel> : autograd.MultiTensorFunction<Function<TKernel>>
        where TKernel : class, IRecordedKernel
    {
        private const string Key = "layout";

        public override string Name => typeof(TKernel).Name;

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (Call<TKernel>)vars[0];
            var (y, final, kept) = call.Kernel.Forward(call.Inputs, keep: true);
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>(), .. kept is null ? Array.Empty<Tensor>() : [kept]]);
            ctx.save_data(Key, new Layout<TKernel>(call.Kernel, [.. call.Inputs.Select(input => input is not null)]));

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            call.Final = final;
            return [y, .. final.Take(call.DifferentiableStates)];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var (kernel, present) = (Layout<TKernel>)ctx.get_data(Key);
            var saved = ctx.get_saved_variables();
            var next = 0;
            Tensor?[] inputs = [.. present.Select(isPresent => isPresent ? saved[next++] : null)];
            Tensor?[] upstream = [.. grad_outputs.Select(gradient => gradient.IsInvalid ? null : gradient)];
            var gradients = upstream.All(gradient => gradient is null) ? new Tensor?[inputs.Length]
                : RecordedGradient.IsWanted ? RecordedGradient.Of(kernel.Reference, inputs, upstream)
                : kernel.Backward(inputs, saved.ElementAtOrDefault(next), upstream[0], upstream[1..]);
            return [null!, .. gradients.Where((_, i) => present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }
    }
}
