using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>What self-tests of kernels need: inputs that leave random number generators alone, and the comparison.</summary>
internal static class SelfTest
{
    /// <summary>Values of both signs within plus or minus <paramref name="scale"/>, without a pattern that hides a wrong index.</summary>
    /// <param name="seed">Different numbers for different inputs.</param>
    /// <param name="scale">Largest magnitude.</param>
    /// <param name="shape">Any shape.</param>
    /// <returns>A float32 tensor on CPU.</returns>
    public static Tensor Values(int seed, double scale, params long[] shape)
    {
        var count = shape.Aggregate(1L, (product, size) => product * size);
        return (arange(count, dtype: ScalarType.Float64, device: CPU) * 0.7548776662 * seed + seed).sin().mul(scale).to_type(ScalarType.Float32).view(shape);
    }

    /// <summary>Null where all tensors agree up to a tolerance relative to the largest expected element; else which does not, and by how much.</summary>
    public static string? Compare(IReadOnlyList<Tensor> expected, IReadOnlyList<Tensor> actual, double tolerance)
    {
        for (var i = 0; i < expected.Count; i++)
        {
            var scale = Math.Max(expected[i].abs().max().ToDouble(), 1e-30);
            var error = (expected[i] - actual[i]).abs().max().ToDouble() / scale;

            // Written so that NaN fails.
            if (!(error <= tolerance))
            {
                return $"result {i} differs by {error:g3} of its largest element, allowed is {tolerance:g3}";
            }
        }

        return null;
    }

    /// <summary>
    /// Outputs of a kernel in float32, and the gradients of all its inputs, against its reference in float64; null where they agree, else which
    /// do not.
    /// </summary>
    /// <param name="inputs">The inputs, on CPU.</param>
    /// <param name="tolerance">Relative to the largest expected element.</param>
    /// <param name="kernel">The kernel: outputs from inputs.</param>
    /// <param name="reference">The reference.</param>
    /// <param name="device">Where both run; null means the CPU.</param>
    public static string? Difference(
        IReadOnlyList<Tensor> inputs, double tolerance, Func<Tensor[], Tensor[]> kernel, Func<Tensor[], Tensor[]> reference, Device? device = null)
    {
        using var scope = NewDisposeScope();
        return Compare(Results(ScalarType.Float64, reference), Results(ScalarType.Float32, kernel), tolerance);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], Tensor[]> run)
        {
            var leaves = inputs.Select(input => input.to(device ?? CPU).to_type(dtype).clone().requires_grad_(true)).ToArray();
            var outputs = run(leaves);
            outputs.Select((output, i) => (output * Values(i + 21, 1, output.shape).to(device ?? CPU).to_type(dtype)).sum()).Aggregate((a, b) => a + b).backward();
            return [.. outputs.Select(output => output.detach()), .. leaves.Select(leaf => leaf.grad!)];
        }
    }

    /// <summary>The same for a recurrence: its output and its final state.</summary>
    public static string? Difference(
        IReadOnlyList<Tensor> inputs, double tolerance, Func<Tensor[], (Tensor Y, Tensor State)> kernel, Func<Tensor[], (Tensor Y, Tensor State)> reference,
        Device? device = null)
    {
        return Difference(inputs, tolerance, x => Both(kernel(x)), x => Both(reference(x)), device);

        static Tensor[] Both((Tensor Y, Tensor State) results) => [results.Y, results.State];
    }
}
