using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>
/// Rotary position embedding (Su et al., arXiv 2104.09864) in the half-split pairing: with rotary width R, channel i turns with channel
/// i + R/2 by the angle <c>position * theta^(-2i/R)</c>; channels past R are left alone.
/// </summary>
public sealed class RotaryEmbedding
{
    private readonly long rotaryWidth;
    private readonly double[] frequencies;
    private readonly double amplitude;

    /// <param name="rotaryWidth">Channels R that turn; even and positive.</param>
    /// <param name="theta">Base of the frequencies; positive. Default 10,000.</param>
    /// <param name="scaling">Stretch of the frequencies; null means none.</param>
    public RotaryEmbedding(long rotaryWidth, double theta = 10_000, RopeScaling? scaling = null)
    {
        if (rotaryWidth < 2 || rotaryWidth % 2 != 0)
        {
            throw new ArgumentOutOfRangeException(
                nameof(rotaryWidth), rotaryWidth, $"RotaryEmbedding: the rotary width must be even and positive; got {rotaryWidth}.");
        }

        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(theta);
        scaling ??= new RopeScaling();
        scaling.Validate();
        this.rotaryWidth = rotaryWidth;
        frequencies = scaling.Frequencies(rotaryWidth, theta);
        amplitude = scaling.Amplitude;
        Settings = FormattableString.Invariant($"{rotaryWidth} channels, theta {theta}, {scaling.Settings}");
    }

    /// <summary>All that the angles depend on, as text.</summary>
    internal string Settings { get; }

    /// <summary>Cosines and sines of positions, float32.</summary>
    /// <param name="positions">int64 [B or 1, T].</param>
    /// <returns>Cosine and sine, each [B or 1, 1, T, R/2], ready for <see cref="Rotate"/>.</returns>
    public (Tensor Cos, Tensor Sin) Angles(Tensor positions)
    {
        using var scope = NewDisposeScope();
        var turns = tensor(frequencies, dtype: ScalarType.Float32).to(positions.device);
        var angles = (positions.to_type(ScalarType.Float32).unsqueeze(-1) * turns).unsqueeze(1);
        var (cos, sin) = (angles.cos(), angles.sin());
        if (amplitude != 1)
        {
            (cos, sin) = (cos * amplitude, sin * amplitude);
        }

        return (cos.MoveToOuterDisposeScope(), sin.MoveToOuterDisposeScope());
    }

    /// <summary>Turns queries or keys.</summary>
    /// <param name="x">[B, H, T, K], K at least R.</param>
    /// <param name="angles">From <see cref="Angles"/>.</param>
    /// <returns>[B, H, T, K] in the dtype of <paramref name="x"/>.</returns>
    public Tensor Rotate(Tensor x, (Tensor Cos, Tensor Sin) angles)
    {
        using var scope = NewDisposeScope();
        var half = rotaryWidth / 2;
        var (cos, sin) = (angles.Cos.to_type(x.dtype), angles.Sin.to_type(x.dtype));
        var first = x.narrow(-1, 0, half);
        var second = x.narrow(-1, half, half);
        var turned = new List<Tensor> { (first * cos) - (second * sin), (second * cos) + (first * sin) };
        var rest = x.size(-1) - rotaryWidth;
        if (rest > 0)
        {
            turned.Add(x.narrow(-1, rotaryWidth, rest));
        }

        return cat(turned, -1).MoveToOuterDisposeScope();
    }
}
