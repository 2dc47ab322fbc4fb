using Hybrid.Kernels;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>
/// Rotary position embedding (Su et al., arXiv 2104.09864) in the half-split pairing: with rotary width R, channel i turns with channel
/// i + R/2 by the angle <c>position * theta^(-2i/R)</c>; channels past R are left alone.
/// </summary>
public sealed class RotaryEmbedding
{
    /// <summary>Tokens of all rows up to which angles are computed one by one.</summary>
    private const long FewTokens = 64;

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
        Frequencies = scaling.Frequencies(rotaryWidth, theta);
        Amplitude = scaling.Amplitude;
        Settings = FormattableString.Invariant($"{rotaryWidth} channels, theta {theta}, {scaling.Settings}");
    }

    /// <summary>All that the angles depend on, as text.</summary>
    internal string Settings { get; }

    /// <summary>Angle between neighbouring positions of each pair of channels, R/2 numbers.</summary>
    internal double[] Frequencies { get; }

    /// <summary>Factor of cosines and sines.</summary>
    internal double Amplitude { get; }

    /// <summary>Cosines and sines of positions, float32.</summary>
    /// <param name="positions">int64 [B or 1, T].</param>
    /// <returns>Cosine and sine, each [B or 1, 1, T, R/2], ready for <see cref="Rotate"/>.</returns>
    public (Tensor Cos, Tensor Sin) Angles(Tensor positions)
    {
        using var scope = NewDisposeScope();
        var turns = tensor(Frequencies, dtype: ScalarType.Float32).to(positions.device);
        var angles = (positions.to_type(ScalarType.Float32).unsqueeze(-1) * turns).unsqueeze(1);
        var (cos, sin) = (angles.cos(), angles.sin());
        if (Amplitude != 1)
        {
            (cos, sin) = (cos * Amplitude, sin * Amplitude);
        }

        return (cos.MoveToOuterDisposeScope(), sin.MoveToOuterDisposeScope());
    }

    /// <summary>Turns queries or keys.</summary>
    /// <param name="x">[B, H, T, K], K at least R.</param>
    /// <param name="angles">From <see cref="Angles"/>, or others of such a shape, which heads need not share: [B or 1, H or 1, T, R/2].</param>
    /// <returns>[B, H, T, K] in the dtype of <paramref name="x"/>.</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public Tensor Rotate(Tensor x, (Tensor Cos, Tensor Sin) angles)
    {
        var (shape, half) = (x.shape, Frequencies.Length);
        if (shape.Length != 4 || shape[3] < 2 * half)
        {
            throw new ArgumentException(
                $"RotaryEmbedding: x must be [B, H, T, K] with K at least {2 * half}; got [{string.Join(", ", shape)}].", nameof(x));
        }

        RequireAngles(angles.Cos.shape);
        RequireAngles(angles.Sin.shape);
        return Rotation.CanRun(x, angles) ? Rotation.Apply(x, angles) : Rotation.Reference(x, angles);

        void RequireAngles(long[] got)
        {
            if (got.Length != 4 || (got[0] != 1 && got[0] != shape[0]) || (got[1] != 1 && got[1] != shape[1]) || got[2] != shape[2] || got[3] != half)
            {
                throw new ArgumentException(
                    $"RotaryEmbedding: the angles must be [{shape[0]} or 1, {shape[1]} or 1, {shape[2]}, {half}]; got [{string.Join(", ", got)}].", nameof(angles));
            }
        }
    }

    /// <summary>
    /// Turns the queries and keys of consecutive tokens; a few of them after a cache in place, where a kernel can and autograd does not record.
    /// </summary>
    /// <param name="query">[B, H, T, K]; nobody else reads it.</param>
    /// <param name="key">[B, G, T, K]; nobody else reads it.</param>
    /// <param name="cached">Tokens of each row before its first, as its cache counts them; null without one.</param>
    /// <returns>Both in the dtypes they have, in the current dispose scope.</returns>
    internal (Tensor Query, Tensor Key) TurnConsecutive(Tensor query, Tensor key, IReadOnlyList<long>? cached)
    {
        using var scope = NewDisposeScope();
        var time = query.size(2);
        if (!is_grad_enabled() && cached?.Count * time <= FewTokens && CanTurn(query) && CanTurn(key))
        {
            var few = AnglesOfFew(cached!, time);
            Rotation.ApplyInPlace(query, few);
            Rotation.ApplyInPlace(key, few);
            return (query, key);
        }

        var angles = Angles(KeyVisibility.Consecutive(cached ?? [0], time, query.device));
        return (Rotate(query, angles).MoveToOuterDisposeScope(), Rotate(key, angles).MoveToOuterDisposeScope());

        static bool CanTurn(Tensor x) => Rotation.CanRun(x) && x.stride()[3] == 1;
    }

    /// <summary><see cref="Angles"/> for a decoding step, where a tensor operation takes longer than its numbers.</summary>
    private unsafe (Tensor Cos, Tensor Sin) AnglesOfFew(IReadOnlyList<long> starts, long time)
    {
        var half = Frequencies.Length;
        var table = empty([2, starts.Count, 1, time, half], dtype: ScalarType.Float32);
        var cos = (float*)TensorMemory.Address(table);
        var sin = cos + (starts.Count * time * half);
        foreach (var start in starts)
        {
            for (var position = start; position < start + time; position++)
            {
                for (var i = 0; i < half; i++)
                {
                    var (s, c) = MathF.SinCos(position * (float)Frequencies[i]);
                    (*cos++, *sin++) = (c * (float)Amplitude, s * (float)Amplitude);
                }
            }
        }

        GC.KeepAlive(table);
        return (table[0], table[1]);
    }
}
