using Hybrid.Attention;
using Hybrid.Kernels;

namespace Hybrid.Routing;

/// <summary>Options of <see cref="TransPointMixer"/>.</summary>
public sealed record TransPointOptions
{
    /// <summary>The TransPoint of a layer that is told none, in tokens.</summary>
    public const long DefaultTransPoint = 512;

    /// <summary>
    /// The staggered TransPoints of TransMamba (arXiv 2503.24067), in tokens, one a layer and cycled. The paper finds one point shared
    /// by all layers worse than no switch at all (validation loss 3.30 to 3.36 against 3.10), because then all layers change their form
    /// of computation at the same token; these, spread over the layers, reach 2.90.
    /// </summary>
    public static IReadOnlyList<long> StaggeredTransPoints { get; } = [0, 128, 256, 512, 1024, 2048, 4096, 8192];

    /// <summary>
    /// Tokens P of a sequence that attention serves; the later ones are the state space's. 0 or more: 0 is the state space alone. Null
    /// means 512 unless <see cref="TransPoints"/> are given, which exclude it.
    /// </summary>
    public long? TransPoint { get; init; }

    /// <summary>
    /// TransPoints of the layers of a backbone that have this mixer, first layer first and cycled, each 0 or more; null gives all layers
    /// <see cref="TransPoint"/>. <see cref="StaggeredTransPoints"/> says why they should differ. A mixer outside a backbone is one layer
    /// and takes <see cref="TransPoint"/>.
    /// </summary>
    public IReadOnlyList<long>? TransPoints { get; init; }

    /// <summary>State size N, which is also the width of a query and a key; at least 1, even with rotary positions. Default 64.</summary>
    public long DState { get; init; } = 64;

    /// <summary>Taps W of the short convolution; at least 1. Default 4.</summary>
    public long DConv { get; init; } = 4;

    /// <summary>Inner width E as a multiple of the model width; at least 1. Default 2.</summary>
    public long ExpandFactor { get; init; } = 2;

    /// <summary>Width K of a head, a divisor of the inner width E; there are H = E / K heads. Default 64.</summary>
    public long HeadDim { get; init; } = 64;

    /// <summary>
    /// Groups G of heads that share queries and keys (C and B), a divisor of the number of heads; null means one a head, as in
    /// multi-head attention. Heads of one group have the same attention weights.
    /// </summary>
    public long? NGroups { get; init; }

    /// <summary>Rotary positions on the queries and keys of the attention part. Default true.</summary>
    public bool UseRope { get; init; } = true;

    /// <summary>Base of the rotary frequencies; positive. Default 10,000.</summary>
    public double RopeTheta { get; init; } = 10_000;

    /// <summary>How the attention scores are computed; the numbers are the same. Default dense.</summary>
    public AttentionMode AttentionMode { get; init; }

    /// <summary>Queries of a chunk of the attention part, and keys of one in the online mode; at least 1. Default 32.</summary>
    public long AttentionChunkSize { get; init; } = 32;

    /// <summary>Longest chunk of the state-space part; at least 1. It trades memory for speed and changes no result. Default 64.</summary>
    public long ChunkSize { get; init; } = StateSpaceDuality.DefaultChunkSize;

    /// <summary>Smallest initial step size; positive. Default 0.001.</summary>
    public double DtMin { get; init; } = 1e-3;

    /// <summary>Largest initial step size; at least <see cref="DtMin"/>. Default 0.1.</summary>
    public double DtMax { get; init; } = 0.1;

    /// <summary>Floor of the initial step size; positive. Default 1e-4.</summary>
    public double DtInitFloor { get; init; } = 1e-4;

    /// <summary>Adds a bias to the convolution. Default true.</summary>
    public bool UseConvBias { get; init; } = true;

    /// <summary>Adds biases to the input and output projections. Default false.</summary>
    public bool UseBias { get; init; }

    /// <summary>Epsilon of the norm before the output; positive. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>The options of one layer of a backbone.</summary>
    /// <param name="index">Number of the layer among those that have this mixer, from 0.</param>
    /// <returns>Options with the layer's <see cref="TransPoint"/> and no <see cref="TransPoints"/>.</returns>
    public TransPointOptions ForLayer(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ValidateTransPoints();
        return TransPoints is { } points ? this with { TransPoint = points[index % points.Count], TransPoints = null } : this;
    }

    /// <summary>Throws where a value is out of its range or does not fit the width.</summary>
    /// <param name="width">Model width D.</param>
    public void Validate(long width)
    {
        ValidateTransPoints();
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(DState), DState, 1);
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(DConv), DConv, 1);
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(ExpandFactor), ExpandFactor, 1);
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(HeadDim), HeadDim, 1);
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(NGroups), NGroups ?? 1, 1);
        OptionRange.Positive(nameof(TransPointOptions), nameof(RopeTheta), RopeTheta);
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(AttentionChunkSize), AttentionChunkSize, 1);
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(ChunkSize), ChunkSize, 1);
        OptionRange.Positive(nameof(TransPointOptions), nameof(DtMin), DtMin);
        OptionRange.Positive(nameof(TransPointOptions), nameof(DtMax), DtMax);
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(DtMax), DtMax, DtMin);
        OptionRange.Positive(nameof(TransPointOptions), nameof(DtInitFloor), DtInitFloor);
        OptionRange.Positive(nameof(TransPointOptions), nameof(NormEps), NormEps);
        var inner = ExpandFactor * width;
        Require(inner % HeadDim == 0, nameof(HeadDim), $"divide the inner width, {inner}", HeadDim);
        Require(
            inner / HeadDim % (NGroups ?? 1) == 0, nameof(NGroups), $"divide the number of heads, {inner / HeadDim}", NGroups ?? 1);
        Require(!UseRope || DState % 2 == 0, nameof(DState), "be even with rotary positions", DState);
    }

    private void ValidateTransPoints()
    {
        OptionRange.AtLeast(nameof(TransPointOptions), nameof(TransPoint), TransPoint ?? 0, 0);
        if (TransPoints is not { } points)
        {
            return;
        }

        if (TransPoint is { } single)
        {
            throw new ArgumentException(
                $"TransPointOptions: state TransPoint or TransPoints, not both; got {single} and [{string.Join(", ", points)}].", nameof(TransPoints));
        }

        if (points.Count == 0 || points.Any(point => point < 0))
        {
            throw new ArgumentException(
                $"TransPointOptions: TransPoints must be one or more points of at least 0; got [{string.Join(", ", points)}].", nameof(TransPoints));
        }
    }

    private static void Require(bool holds, string option, string rule, long value)
    {
        if (!holds)
        {
            throw new ArgumentException($"TransPointOptions: {option} must {rule}; got {value}.", option);
        }
    }
}
