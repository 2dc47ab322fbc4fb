using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

/// <summary>Numbers in and out of tensors, so that expected values can be worked out in plain double arithmetic.</summary>
internal static class Values
{
    /// <summary>Made with float64, one rounding of a few operations.</summary>
    public const double Exact = 1e-12;

    /// <summary>Made with float32, sums of some tens of terms of size one.</summary>
    public const double Single = 2e-6;

    public static double[] Of(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return tensor.detach().cpu().to(ScalarType.Float64).contiguous().data<double>().ToArray();
    }

    /// <summary>Values between -1 and 1 without pattern, the same for the same seed.</summary>
    public static double[] Some(long count, int seed)
    {
        var random = new Random(seed);
        return Enumerable.Range(0, (int)count).Select(_ => 2 * random.NextDouble() - 1).ToArray();
    }

    public static Tensor Tensor(double[] values, params long[] shape) => tensor(values, shape, ScalarType.Float64);

    public static Tensor SomeTensor(int seed, params long[] shape) => Tensor(Some(shape.Aggregate(1L, (a, b) => a * b), seed), shape);

    public static void Set(Tensor target, double[] values)
    {
        using var guard = no_grad();
        using var scope = NewDisposeScope();
        target.copy_(Tensor(values, target.shape));
    }

    public static void Near(double[] expected, Tensor actual, double tolerance = Exact) => Near(expected, Of(actual), tolerance);

    public static void Near(double[] expected, double[] actual, double tolerance = Exact)
    {
        Assert.Equal(expected.Length, actual.Length);
        for (int i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= tolerance * Math.Max(1, Math.Abs(expected[i])),
                $"element {i}: expected {expected[i]:R}, got {actual[i]:R}");
    }

    public static long Live => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
}
