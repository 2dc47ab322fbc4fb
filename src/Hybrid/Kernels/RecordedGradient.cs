using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Gradients of a fast kernel while a backward pass is itself recorded (create_graph), for second and further derivatives: a kernel's own
/// backward pass leaves no graph, so the gradients come from differentiating the reference, which does. Other backward passes never get here.
/// </summary>
internal static class RecordedGradient
{
    /// <summary>True inside a backward pass that is recorded: autograd switches recording on and off for it.</summary>
    public static bool IsWanted => is_grad_enabled();

    /// <summary>Gradients of inputs.</summary>
    /// <param name="reference">
    /// The function that the kernel computes, from plain tensor operations: inputs in the order of <paramref name="inputs"/> to outputs in the
    /// order of <paramref name="gradients"/>. It must not throw, since no exception leaves a backward pass.
    /// </param>
    /// <param name="inputs">What the kernel saved, with its history; null where there is no such input.</param>
    /// <param name="gradients">Gradients of the outputs, invalid or null where there is none.</param>
    /// <returns>A gradient an input, with its history, in the current dispose scope; null where the input needs none.</returns>
    public static Tensor?[] Of(
        Func<IReadOnlyList<Tensor?>, IReadOnlyList<Tensor>> reference, IReadOnlyList<Tensor?> inputs, IReadOnlyList<Tensor?> gradients)
    {
        // Views, at which the differentiation ends: of two inputs, one may have been computed from the other.
        var views = inputs.Select(input => input?.requires_grad == true ? input.view_as(input) : input).ToArray();
        var used = reference(views).Zip(gradients).Where(pair => pair.First.requires_grad && pair.Second is { IsInvalid: false }).ToArray();
        var wanted = views.Where(view => view?.requires_grad == true).Select(view => view!).ToArray();
        if (used.Length == 0 || wanted.Length == 0)
        {
            return new Tensor?[inputs.Count];
        }

        // TorchSharp keeps the graph only where it is told so, create_graph or not.
        var found = autograd.grad(
            [.. used.Select(pair => pair.First)], wanted, [.. used.Select(pair => pair.Second!)], retain_graph: true, create_graph: true, allow_unused: true);
        var next = 0;
        return [.. views.Select(view => view?.requires_grad == true && found[next++] is { IsInvalid: false } gradient ? gradient : null)];
    }
}
