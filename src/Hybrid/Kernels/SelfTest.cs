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
}
