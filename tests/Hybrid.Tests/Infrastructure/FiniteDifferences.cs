using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Infrastructure;

/// <summary>Checks gradients against central differences in float64, along random directions.</summary>
public static class FiniteDifferences
{
    private const double Step = 1e-6;

    /// <summary>
    /// For each input, the derivative of a fixed random projection of the outputs along two random directions equals the gradient's.
    /// With a step of 1e-6 in float64 both rounding and curvature stay below 1e-7 of the value.
    /// </summary>
    public static void Check(Func<Tensor[], Tensor[]> function, Tensor[] inputs, double tolerance = 1e-6)
    {
        using var scope = NewDisposeScope();
        var generator = new Generator(7);
        var leaves = inputs.Select(input => input.detach().clone().requires_grad_(true)).ToArray();
        Assert.All(leaves, leaf => Assert.Equal(ScalarType.Float64, leaf.dtype));
        var outputs = function(leaves);
        var cotangents = outputs.Select(output => randn(output.shape, dtype: ScalarType.Float64, generator: generator)).ToArray();
        Project(outputs, cotangents).backward();

        for (var i = 0; i < leaves.Length; i++)
        {
            var gradient = leaves[i].grad;
            Assert.False(gradient is null, $"input {i} has no gradient");
            for (var trial = 0; trial < 2; trial++)
            {
                var direction = randn(leaves[i].shape, dtype: ScalarType.Float64, generator: generator);
                var analytic = (gradient! * direction).sum().ToDouble();
                var numeric = (Shifted(i, direction, Step) - Shifted(i, direction, -Step)) / (2 * Step);
                var scale = Math.Max(1, Math.Abs(analytic));
                Assert.True(
                    Math.Abs(analytic - numeric) <= tolerance * scale, $"input {i}: gradient gives {analytic:g9}, differences give {numeric:g9}");
            }
        }

        double Shifted(int index, Tensor direction, double step)
        {
            using var inner = NewDisposeScope();
            using var guard = no_grad();
            var moved = leaves.Select((leaf, i) => i == index ? leaf + (direction * step) : leaf).ToArray();
            return Project(function(moved), cotangents).ToDouble();
        }
    }

    private static Tensor Project(Tensor[] outputs, Tensor[] cotangents) =>
        outputs.Zip(cotangents, (output, cotangent) => (output * cotangent).sum()).Aggregate((a, b) => a + b);
}
