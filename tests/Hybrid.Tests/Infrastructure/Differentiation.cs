using static TorchSharp.torch;

namespace Hybrid.Tests.Infrastructure;

/// <summary>Results of a function and the gradients of what it was given, by which one form of a kernel is compared with another.</summary>
internal static class Differentiation
{
    /// <summary>Copies of tensors that gradients end at.</summary>
    public static Tensor[] Leaves(IEnumerable<Tensor> values, ScalarType? dtype = null) =>
        [.. values.Select(value => value.to_type(dtype ?? value.dtype).detach().clone().requires_grad_(true))];

    /// <summary>
    /// The outputs of a function, then the gradient of each input; zeros for an input that no output depends on. What is differentiated is
    /// the sum over the outputs of output * cotangent, with cotangents that are the same for outputs of the same shapes.
    /// </summary>
    /// <param name="inputs">Tensors of any shape; the function gets copies.</param>
    /// <param name="function">The function.</param>
    /// <param name="dtype">What the copies are converted to; null leaves them as they are.</param>
    public static Tensor[] Results(IEnumerable<Tensor> inputs, Func<Tensor[], Tensor[]> function, ScalarType? dtype = null)
    {
        using var generator = new Generator(7);
        var leaves = Leaves(inputs, dtype);
        var outputs = function(leaves);
        outputs.Select(output => (output * randn(output.shape, generator: generator).to(output.device).to_type(output.dtype)).sum())
            .Aggregate((a, b) => a + b).backward();
        return [.. outputs.Select(output => output.detach()), .. leaves.Select(leaf => leaf.grad ?? zeros_like(leaf))];
    }

    /// <summary>The same for a function of two outputs, such as a recurrence with its final state.</summary>
    public static Tensor[] Results(IEnumerable<Tensor> inputs, Func<Tensor[], (Tensor Y, Tensor State)> function, ScalarType? dtype = null) =>
        Results(
            inputs,
            leaves =>
            {
                var (y, state) = function(leaves);
                return [y, state];
            },
            dtype);
}
