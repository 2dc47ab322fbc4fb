using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The self-test of kernels on <see cref="ChannelScan"/>.</summary>
internal static class ChannelScanSelfTest
{
    // The rounding of a float32 kernel over a few dozen steps, relative to the largest element.
    private const double Tolerance = 1e-4;

    /// <summary>Results and gradients of all inputs, the kernel in float32 against the reference in float64; null where they agree.</summary>
    public static string? Compare(Tensor[] inputs, Func<Tensor[], Tensor[]> fast, Func<Tensor[], Tensor[]> reference)
    {
        using var scope = NewDisposeScope();
        return SelfTest.Compare(Results(ScalarType.Float64, reference), Results(ScalarType.Float32, fast), Tolerance);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], Tensor[]> run)
        {
            var x = inputs.Select(input => input.to_type(dtype).clone().requires_grad_(true)).ToArray();
            var results = run(x);
            results.Select((result, i) => (result * SelfTest.Values(i + 21, 1, result.shape).to_type(dtype)).sum()).Aggregate((a, b) => a + b).backward();
            return [.. results.Select(result => result.detach()), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
