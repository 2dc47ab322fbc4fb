using TorchSharp;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Torch;

/// <summary>Compares tensors with numbers worked out by hand or in plain double arithmetic.</summary>
internal static class Expect
{
    /// <summary>A few roundings of float32 on values of size one.</summary>
    public const double Single = 1e-6;

    /// <summary>A few roundings of float64 on values of size one.</summary>
    public const double Double = 1e-13;

    /// <summary>The tensors this thread made and did not dispose; those of tests on other threads do not count.</summary>
    public static long Live => DisposeScopeManager.Statistics.ThreadTotalLiveCount;

    public static void Values(Tensor tensor, params double[] expected) => Values(tensor, 0, expected);

    public static void Values(Tensor tensor, double tolerance, double[] expected)
    {
        var actual = Read(tensor);
        Assert.Equal(expected.Length, actual.Length);
        for (var i = 0; i < expected.Length; i++)
        {
            var same = actual[i].Equals(expected[i]) || Math.Abs(actual[i] - expected[i]) <= tolerance * Math.Max(1, Math.Abs(expected[i]));
            Assert.True(same, $"element {i}: expected {expected[i]:r}, got {actual[i]:r} in [{string.Join(", ", actual)}]");
        }
    }

    public static void Shape(Tensor tensor, params long[] expected) => Assert.Equal(expected, tensor.shape);

    public static double[] Read(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return tensor.detach().cpu().to(ScalarType.Float64).data<double>().ToArray();
    }

    /// <summary>The numbers 0, 1, 2 ... in a shape.</summary>
    public static Tensor Range(params long[] shape) =>
        arange(shape.Aggregate(1L, (a, b) => a * b), dtype: ScalarType.Float32).reshape(shape);
}
