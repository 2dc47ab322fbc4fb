using Xunit;
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
        Results(inputs, leaves => Both(function(leaves)), dtype);

    /// <summary>
    /// The outputs of a function, then the gradient of each input, where the first output alone receives one. Inputs are not copied: slices
    /// are given as slices.
    /// </summary>
    /// <param name="inputs">Tensors of any shape.</param>
    /// <param name="cotangent">The gradient of the first output, converted to its dtype.</param>
    /// <param name="function">The function.</param>
    /// <param name="dtype">What the inputs are converted to; null leaves them as they are.</param>
    public static Tensor[] OfFirstOutput(IEnumerable<Tensor> inputs, Tensor cotangent, Func<Tensor[], Tensor[]> function, ScalarType? dtype = null)
    {
        Tensor[] leaves = [.. inputs.Select(input => input.to_type(dtype ?? input.dtype).detach().requires_grad_(true))];
        var outputs = function(leaves);
        outputs[0].backward([cotangent.to_type(outputs[0].dtype)]);
        return [.. outputs.Select(output => output.detach()), .. leaves.Select(leaf => leaf.grad!)];
    }

    /// <summary>The gradients of the sum of squares of an output; zeros for an input on which it does not depend.</summary>
    public static Tensor[] OfSquares(IEnumerable<Tensor> inputs, Func<Tensor[], Tensor> function, ScalarType? dtype = null)
    {
        var leaves = Leaves(inputs, dtype);
        function(leaves).square().sum().backward();
        return [.. leaves.Select(leaf => leaf.grad ?? zeros_like(leaf))];
    }

    /// <summary>The gradients of the sum of squares of the gradients <see cref="OfSquares"/>, one after the other in one row.</summary>
    public static Tensor Second(IEnumerable<Tensor> inputs, Func<Tensor[], Tensor> function)
    {
        var leaves = Leaves(inputs);
        var first = autograd.grad([function(leaves).square().sum()], leaves, retain_graph: true, create_graph: true);
        first.Select(gradient => gradient.square().sum()).Aggregate((a, b) => a + b).backward();
        return cat([.. leaves.Select(leaf => leaf.grad!.flatten())]);
    }

    /// <summary>
    /// A kernel on inputs of half precision equals its reference on the same numbers in a wide dtype up to the rounding of what it
    /// returns: outputs and gradients. The first output has the dtype of the cotangent, further ones (states) are float32, gradients have
    /// the dtypes of the inputs.
    /// </summary>
    /// <param name="inputs">Tensors of any shape and dtype.</param>
    /// <param name="cotangent">The gradient of the first output.</param>
    /// <param name="kernel">The kernel.</param>
    /// <param name="reference">The reference, which gets the inputs in the wide dtype.</param>
    /// <param name="rounding">The tolerance.</param>
    /// <param name="stateRounding">That of the states; null where they come through products in half precision.</param>
    /// <param name="wide">The dtype of the reference.</param>
    public static void HalfEqualsWide(
        Tensor[] inputs, Tensor cotangent, Func<Tensor[], Tensor[]> kernel, Func<Tensor[], Tensor[]> reference, double rounding,
        double? stateRounding = null, ScalarType wide = ScalarType.Float32)
    {
        var actual = OfFirstOutput(inputs, cotangent, kernel);
        var expected = OfFirstOutput(inputs, cotangent, reference, wide);
        var outputs = actual.Length - inputs.Length;
        Assert.Equal(
            [cotangent.dtype, .. Enumerable.Repeat(ScalarType.Float32, outputs - 1), .. inputs.Select(input => input.dtype)],
            actual.Select(tensor => tensor.dtype));
        foreach (var (i, tensor) in expected.Index())
        {
            var tolerance = i > 0 && i < outputs ? stateRounding ?? rounding : rounding;
            TensorAssert.Close(tensor, actual[i], tolerance, i < outputs ? $"output {i}" : $"gradient of input {i - outputs}");
        }
    }

    /// <summary>The same for a kernel of two outputs.</summary>
    public static void HalfEqualsWide(
        Tensor[] inputs, Tensor cotangent, Func<Tensor[], (Tensor Y, Tensor State)> kernel, Func<Tensor[], (Tensor Y, Tensor State)> reference,
        double rounding, double? stateRounding = null, ScalarType wide = ScalarType.Float32) =>
        HalfEqualsWide(inputs, cotangent, x => Both(kernel(x)), x => Both(reference(x)), rounding, stateRounding, wide);

    private static Tensor[] Both((Tensor Y, Tensor State) outputs) => [outputs.Y, outputs.State];
}
