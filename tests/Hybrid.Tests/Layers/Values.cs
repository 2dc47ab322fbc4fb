using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

/// <summary>Tensors as plain arrays, for oracles that are written without tensor operations.</summary>
internal static class Values
{
    /// <summary>The elements in row-major order.</summary>
    public static double[] Of(Tensor tensor)
    {
        using var scope = NewDisposeScope();
        return tensor.numel() == 0 ? [] : tensor.detach().to_type(ScalarType.Float64).contiguous().data<double>().ToArray();
    }

    /// <summary>Float32 samples of the standard normal distribution that depend on the seed alone.</summary>
    public static Tensor Normal(ulong seed, params long[] shape)
    {
        using var generator = new Generator(seed);
        return randn(shape, generator: generator);
    }

    /// <summary>A float32 tensor of these elements.</summary>
    public static Tensor Tensor32(double[] values, params long[] shape) =>
        tensor(values.Select(value => (float)value).ToArray()).view(shape);

    /// <summary>Natural logistic function.</summary>
    public static double Sigmoid(double x) => 1 / (1 + Math.Exp(-x));

    /// <summary>x times its logistic function.</summary>
    public static double Silu(double x) => x * Sigmoid(x);
}
