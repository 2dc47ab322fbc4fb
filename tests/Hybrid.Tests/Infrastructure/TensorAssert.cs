using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Infrastructure;

/// <summary>Comparisons of tensors, with messages that say by how much they fail.</summary>
public static class TensorAssert
{
    /// <summary>The largest difference is at most <paramref name="tolerance"/> times the largest expected element (at least 1e-30).</summary>
    public static void Close(Tensor expected, Tensor actual, double tolerance, string what)
    {
        using var scope = NewDisposeScope();
        Assert.True(
            expected.shape.AsSpan().SequenceEqual(actual.shape),
            $"{what}: expected shape [{string.Join(", ", expected.shape)}], got [{string.Join(", ", actual.shape)}]");
        if (expected.numel() == 0)
        {
            return;
        }

        Assert.True(actual.detach().isfinite().all().ToBoolean(), $"{what}: has values that are not finite");
        var error = RelativeError(expected, actual);
        Assert.True(error <= tolerance, $"{what}: largest error is {error:g3} of the largest element, allowed is {tolerance:g3}");
    }

    /// <summary>Each tensor as <see cref="Close"/> compares it.</summary>
    /// <param name="expected">What is compared with.</param>
    /// <param name="actual">As many tensors.</param>
    /// <param name="tolerance">Of each tensor.</param>
    /// <param name="what">What all of them belong to.</param>
    /// <param name="names">What each is; those without a name are counted.</param>
    public static void AllClose(IReadOnlyList<Tensor> expected, IReadOnlyList<Tensor> actual, double tolerance, string what, params string[] names)
    {
        Assert.Equal(expected.Count, actual.Count);
        for (var i = 0; i < expected.Count; i++)
        {
            Close(expected[i], actual[i], tolerance, $"{what}: {(i < names.Length ? names[i] : $"tensor {i} of outputs and gradients")}");
        }
    }

    /// <summary>Equal bit for bit.</summary>
    public static void Identical(Tensor expected, Tensor actual, string what)
    {
        using var scope = NewDisposeScope();
        Assert.True(
            expected.shape.AsSpan().SequenceEqual(actual.shape),
            $"{what}: expected shape [{string.Join(", ", expected.shape)}], got [{string.Join(", ", actual.shape)}]");
        Assert.True(expected.numel() == 0 || expected.eq(actual).all().ToBoolean(), $"{what}: differs (by up to {RelativeError(expected, actual):g3})");
    }

    /// <summary>Largest absolute difference over the largest absolute expected element.</summary>
    public static double RelativeError(Tensor expected, Tensor actual)
    {
        using var scope = NewDisposeScope();
        var (want, got) = (expected.detach().to_type(ScalarType.Float64), actual.detach().to_type(ScalarType.Float64));
        var scale = Math.Max(want.abs().max().ToDouble(), 1e-30);
        return (want - got).abs().max().ToDouble() / scale;
    }
}
