using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>
/// State of a <see cref="MixedHeadAttention"/>: keys and values of its standard and holonomy heads, the last values of its spectral
/// heads, the angles of its paths; each where the layer has such heads. It can be trimmed where it is keys and values alone.
/// </summary>
public sealed class MixedHeadState : CompositeState
{
    internal MixedHeadState(long batchSize, IEnumerable<MixerState> parts)
        : base(batchSize, parts)
    {
    }

    /// <summary>Keys and values, keys after their rotation; null without standard and holonomy heads.</summary>
    public KeyValueState? KeysAndValues => Parts.OfType<KeyValueState>().SingleOrDefault();

    /// <summary>The last W - 1 values of the spectral heads, oldest first: [B, W - 1, H K], float32 (float64 with float64 weights); null without them.</summary>
    public Tensor? SpectralWindow => Window?.Value;

    /// <summary>Angles that the paths have accumulated: [B, H K / 2], float32 (float64 with float64 weights); null without paths.</summary>
    public Tensor? PathAngles => Path?.Value;

    internal SpectralWindowState? Window => Parts.OfType<SpectralWindowState>().SingleOrDefault();

    internal HolonomyPathState? Path => Parts.OfType<HolonomyPathState>().SingleOrDefault();
}

/// <summary>The last values of spectral heads, [B, W - 1, H K].</summary>
internal sealed class SpectralWindowState(Tensor values) : MixerState(values.size(0), ("values", values))
{
    public Tensor Value => this[0];

    internal void Update(Tensor value, MixerBatch batch)
    {
        Set(0, value);
        Advance(batch.Length, batch.Lengths);
    }
}

/// <summary>Angles of holonomy paths, [B, H K / 2].</summary>
internal sealed class HolonomyPathState(Tensor angles) : MixerState(angles.size(0), ("angles", angles))
{
    public Tensor Value => this[0];

    internal void Update(Tensor value, MixerBatch batch)
    {
        Set(0, value);
        Advance(batch.Length, batch.Lengths);
    }
}
