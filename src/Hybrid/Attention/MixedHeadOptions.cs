namespace Hybrid.Attention;

/// <summary>What a head of <see cref="MixedHeadAttention"/> computes.</summary>
public enum HeadType
{
    /// <summary>Scaled dot-product attention: <c>softmax(Q K^T / sqrt K) V</c>.</summary>
    Standard,

    /// <summary>A learned filter over the values, given by gain and phase at each frequency; queries and keys have no part in it.</summary>
    Spectral,

    /// <summary>Attention whose queries, or queries and keys, are turned by learned rotations.</summary>
    Holonomy,
}

/// <summary>How holonomy heads turn, with the skew-symmetric generator <c>A = (C - C^T) / 2</c> of a learned C [K, K] for each head.</summary>
public enum HolonomyKind
{
    /// <summary>Queries turn by one rotation: <c>q exp(A)</c>.</summary>
    Orthogonal,

    /// <summary>Scores are transported over the distance: <c>q_t^T exp((t - s) A) k_s / sqrt K</c>, a rotary embedding in learned planes.</summary>
    Transport,

    /// <summary>
    /// Scores are transported along the content: channel i turns with channel i + K/2 by the sum of <c>W x</c> over the tokens after s, up
    /// to t.
    /// </summary>
    Path,
}

/// <summary>Whose numbers a layer reproduces.</summary>
public enum MixedHeadCompat
{
    /// <summary>The definitions of this library.</summary>
    None,

    /// <summary>
    /// Those of the layer that this one replaces: heads grouped by type whatever their order; spectral heads a layer of their own over
    /// the queries, with projections, residual and circular filter, which is not causal; holonomy heads a free matrix on the queries,
    /// which is no rotation.
    /// </summary>
    Upstream,
}

/// <summary>Options of <see cref="MixedHeadAttention"/>.</summary>
public sealed record MixedHeadOptions
{
    /// <summary>
    /// The type of each head, in the order of their channels; the width D must be a multiple of their number H. Default: four standard,
    /// two spectral, two holonomy.
    /// </summary>
    public IReadOnlyList<HeadType> HeadTypes { get; init; } = Mix(4, 2, 2);

    /// <summary>How holonomy heads turn. Default orthogonal.</summary>
    public HolonomyKind Holonomy { get; init; }

    /// <summary>
    /// Frequencies, from 0 to Nyquist, at which a spectral head learns gain and phase; between them both are interpolated. At least 3;
    /// default 33.
    /// </summary>
    public long SpectralBins { get; init; } = 33;

    /// <summary>
    /// Lags W of a causal spectral head: each token sees the last W values, itself counted. At least 2; default 128. A filter that is not
    /// causal spans the sequence.
    /// </summary>
    public long SpectralLags { get; init; } = 128;

    /// <summary>Spectral heads filter by real gains in the cosine transform, without phases. Default false: gains and phases in the Fourier transform.</summary>
    public bool UseDct { get; init; }

    /// <summary>Scales what a spectral head gives for a token by <c>1 + tanh(w v + b)</c>, with w [K] shared by the heads. Default false.</summary>
    public bool TokenGate { get; init; }

    /// <summary>
    /// True (the default): no output depends on a later input. False: every token sees the whole row, and there is no state.
    /// </summary>
    public bool Causal { get; init; } = true;

    /// <summary>Adds the input to the output; null means false, as the blocks of a backbone have the residual, and true in compat.</summary>
    public bool? Residual { get; init; }

    /// <summary>Dropout on attention weights and on the output while training. Default 0.</summary>
    public double DropoutRate { get; init; }

    /// <summary>
    /// Longest sequence whose keys and values a state takes; in compat the length T whose <c>T / 2 + 1</c> frequencies are learned, between
    /// which those of another length are interpolated. At least 2; default 2048.
    /// </summary>
    public long MaxSeqLen { get; init; } = 2048;

    /// <summary>Whose numbers the layer reproduces. Default none.</summary>
    public MixedHeadCompat Compat { get; init; }

    /// <summary>Head types in groups.</summary>
    /// <param name="standard">Number of standard heads, which come first.</param>
    /// <param name="spectral">Number of spectral heads, which follow.</param>
    /// <param name="holonomy">Number of holonomy heads, which come last.</param>
    /// <returns>A value for <see cref="HeadTypes"/>.</returns>
    public static IReadOnlyList<HeadType> Mix(int standard, int spectral, int holonomy) =>
    [
        .. Enumerable.Repeat(HeadType.Standard, standard),
        .. Enumerable.Repeat(HeadType.Spectral, spectral),
        .. Enumerable.Repeat(HeadType.Holonomy, holonomy),
    ];

    /// <summary>Throws where a value is out of its range or does not fit the width.</summary>
    /// <param name="width">Model width D.</param>
    /// <exception cref="ArgumentException">A value is out of its range or does not fit.</exception>
    public void Validate(long width)
    {
        OptionRange.AtLeast(nameof(MixedHeadOptions), nameof(SpectralBins), SpectralBins, 3);
        OptionRange.AtLeast(nameof(MixedHeadOptions), nameof(SpectralLags), SpectralLags, 2);
        OptionRange.AtLeast(nameof(MixedHeadOptions), nameof(MaxSeqLen), MaxSeqLen, 2);
        OptionRange.DropRate(nameof(MixedHeadOptions), nameof(DropoutRate), DropoutRate);
        ValidateHeads(width);
        if (Compat == MixedHeadCompat.Upstream && (UseDct || TokenGate || Holonomy != HolonomyKind.Orthogonal))
        {
            throw new ArgumentException(
                "MixedHeadOptions: Compat of Upstream has no UseDct, TokenGate or Holonomy; leave them at their defaults.", nameof(Compat));
        }
    }

    private void ValidateHeads(long width)
    {
        if (HeadTypes.Count == 0 || width % HeadTypes.Count != 0)
        {
            throw new ArgumentException(
                $"MixedHeadOptions: HeadTypes must be at least one, in a number that divides the width, {width}; got {HeadTypes.Count}.", nameof(HeadTypes));
        }

        if (HeadTypes.FirstOrDefault(type => !Enum.IsDefined(type), HeadType.Standard) is var unknown && !Enum.IsDefined(unknown))
        {
            throw new ArgumentException(
                $"MixedHeadOptions: HeadTypes must be of {string.Join(", ", Enum.GetNames<HeadType>())}; got {unknown}.", nameof(HeadTypes));
        }

        var headWidth = width / HeadTypes.Count;
        if (Holonomy == HolonomyKind.Path && HeadTypes.Contains(HeadType.Holonomy) && headWidth % 2 != 0)
        {
            throw new ArgumentException(
                $"MixedHeadOptions: Holonomy of Path must have heads of an even width; got {headWidth}.", nameof(Holonomy));
        }
    }
}
