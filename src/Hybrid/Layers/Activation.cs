using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>Element-wise activation functions that options can name.</summary>
public enum Activation
{
    /// <summary>x itself.</summary>
    Identity,

    /// <summary>SiLU, also called swish: <c>x * sigmoid(x)</c>.</summary>
    Silu,

    /// <summary>GELU with the error function.</summary>
    Gelu,

    /// <summary>max(x, 0).</summary>
    Relu,
}

/// <summary>Applies an <see cref="Activation"/>.</summary>
public static class ActivationExtensions
{
    /// <summary>The activation of every element.</summary>
    /// <param name="activation">Which function.</param>
    /// <param name="x">Any shape.</param>
    /// <returns>A tensor of the same shape (<paramref name="x"/> itself for the identity).</returns>
    public static Tensor Apply(this Activation activation, Tensor x) => activation switch
    {
        Activation.Identity => x,
        Activation.Silu => x.silu(),
        Activation.Gelu => x.gelu(),
        Activation.Relu => x.relu(),
        _ => throw new ArgumentOutOfRangeException(nameof(activation), activation, $"Activation: unknown value {activation}."),
    };
}
