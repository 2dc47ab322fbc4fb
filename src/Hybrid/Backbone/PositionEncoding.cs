using Hybrid.Attention;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Backbone;

/// <summary>What a stack adds to its input to tell positions apart.</summary>
public enum PositionEncodingKind
{
    /// <summary>Nothing: state-space layers and rotary attention know the order by themselves.</summary>
    None,

    /// <summary>Sines and cosines of the position (Vaswani et al., arXiv 1706.03762, section 3.5).</summary>
    Sinusoidal,

    /// <summary>A trained vector a position, for a limited number of them.</summary>
    Learned,
}

/// <summary>
/// Absolute positions: <c>x_t + P(p)</c>, p being the number of real tokens before t in its sequence, with <c>P(p)[2i] = sin(p / 10000^(2i / D))</c>
/// and <c>P(p)[2i + 1] = cos(p / 10000^(2i / D))</c>, or a trained row p. States, padding and packed rows are counted as for any layer.
/// </summary>
public sealed class PositionEncoding : nn.Module
{
    private const double Base = 10_000;

    private readonly long width;

    [ComponentName(Name = "embedding")]
    private readonly TokenEmbedding? embedding;

    /// <param name="kind">Sinusoidal or learned.</param>
    /// <param name="width">Model width D; at least 1.</param>
    /// <param name="maxLength">Longest sequence, at least 1; a learned encoding needs it.</param>
    /// <exception cref="ArgumentException">The kind is none, or learned without a length.</exception>
    public PositionEncoding(PositionEncodingKind kind, long width, long? maxLength = null)
        : base(nameof(PositionEncoding))
    {
        this.width = width;
        embedding = kind switch
        {
            PositionEncodingKind.Sinusoidal => null,
            PositionEncodingKind.Learned when maxLength is { } length => new TokenEmbedding(length, width),
            PositionEncodingKind.Learned => throw new ArgumentException("PositionEncoding: learned positions need the longest length.", nameof(maxLength)),
            _ => throw new ArgumentException($"PositionEncoding: the kind must be Sinusoidal or Learned; got {kind}.", nameof(kind)),
        };
        RegisterComponents();
    }

    /// <summary>Adds the encoding.</summary>
    /// <param name="x">[B, T, D].</param>
    /// <param name="context">State (not advanced here), padding, packed rows.</param>
    /// <returns>[B, T, D].</returns>
    public Tensor Add(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var positions = Positions(x.size(1), context, x.device);
        var encoding = embedding?.call(positions) ?? Sinusoids(positions);
        return (x + encoding.to_type(x.dtype)).MoveToOuterDisposeScope();
    }

    /// <summary>Int64 [B or 1, T]: the number of real tokens before each token; 0 at left padding, which is never seen.</summary>
    private static Tensor Positions(long time, MixerContext context, Device device)
    {
        if (context.SequenceIds is { } ids)
        {
            return ids.unsqueeze(2).eq(ids.unsqueeze(1)).to_type(ScalarType.Int64).tril(-1).sum(dim: -1);
        }

        var starts = context.State?.Positions ?? [0];
        if (context.Lengths is not { } lengths || context.PaddingSide == PaddingSide.Right)
        {
            return KeyVisibility.Consecutive(starts, time, device);
        }

        var shifted = lengths.Select((length, row) => starts[starts.Count == 1 ? 0 : row] - (time - length)).ToArray();
        return KeyVisibility.Consecutive(shifted, time, device).clamp_min(0);
    }

    /// <summary>[B or 1, T, D] in float32.</summary>
    private Tensor Sinusoids(Tensor positions)
    {
        var pairs = (width + 1) / 2;
        var frequencies = (arange(pairs, dtype: ScalarType.Float32, device: positions.device) * (-2 * Math.Log(Base) / width)).exp();
        var angles = positions.to_type(ScalarType.Float32).unsqueeze(-1) * frequencies;
        return stack([angles.sin(), angles.cos()], -1).flatten(-2).narrow(-1, 0, width);
    }
}
