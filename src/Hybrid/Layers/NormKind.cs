using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>The norms of residual blocks, by name.</summary>
public enum NormKind
{
    /// <summary><see cref="RmsNorm"/> with a weight a channel.</summary>
    Rms,

    /// <summary><see cref="RmsNorm"/> with a factor of 1 + weight (RecurrentGemma, Qwen3-Next).</summary>
    ZeroCentredRms,

    /// <summary>LayerNorm (Ba et al., arXiv 1607.06450) with weight and bias (RWKV-4).</summary>
    LayerNorm,
}

/// <summary>Makes norms by their name.</summary>
public static class NormKindExtensions
{
    /// <summary>A new norm over the last dimension.</summary>
    /// <param name="kind">Which norm.</param>
    /// <param name="width">Size of the last dimension; at least 1.</param>
    /// <param name="epsilon">Added to the mean square or the variance; positive.</param>
    /// <returns>The module.</returns>
    public static nn.Module<Tensor, Tensor> Create(this NormKind kind, long width, double epsilon) => kind.Create(width, epsilon, halvings: 0);

    /// <summary>A new norm behind a stream that is halved in evaluation mode, see <see cref="RescaledLayerNorm"/>.</summary>
    internal static nn.Module<Tensor, Tensor> Create(this NormKind kind, long width, double epsilon, int halvings) => kind switch
    {
        NormKind.Rms => new RmsNorm(width, epsilon),
        NormKind.ZeroCentredRms => new RmsNorm(width, epsilon, NormScale.OnePlusWeight),
        NormKind.LayerNorm => new RescaledLayerNorm(width, epsilon, halvings),
        _ => throw new ArgumentOutOfRangeException(nameof(kind), kind, $"NormKind: unknown value {kind}."),
    };
}
