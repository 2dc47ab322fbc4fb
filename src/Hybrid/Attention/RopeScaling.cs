namespace Hybrid.Attention;

/// <summary>How rotary frequencies are stretched for sequences longer than the model was trained on.</summary>
public enum RopeScalingKind
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>All divided by the factor: position interpolation (Chen et al., arXiv 2306.15595).</summary>
    Linear,

    /// <summary>Long waves divided by the factor, short ones kept, a blend between (Llama 3.1, arXiv 2407.21783).</summary>
    Llama3,

    /// <summary>As <see cref="Llama3"/> with a ramp over the channels, and longer queries and keys (YaRN, Peng et al., arXiv 2309.00071).</summary>
    Yarn,
}

/// <summary>A stretch of the rotary frequencies, <c>theta^(-2i/R)</c> for rotary width R. The keys are those of released checkpoints.</summary>
public sealed record RopeScaling
{
    /// <summary>Which formula. Default none.</summary>
    public RopeScalingKind Kind { get; init; }

    /// <summary>How much longer the sequences become; at least 1. Default 1.</summary>
    public double Factor { get; init; } = 1;

    /// <summary>Longest sequence O of the training; llama3 and yarn need it.</summary>
    public long? OriginalMaxPositionEmbeddings { get; init; }

    /// <summary>llama3: waves that turn fewer times than this within O are divided by the factor; positive. Default 1.</summary>
    public double LowFreqFactor { get; init; } = 1;

    /// <summary>llama3: waves that turn more often than this within O are kept; above <see cref="LowFreqFactor"/>. Default 4.</summary>
    public double HighFreqFactor { get; init; } = 4;

    /// <summary>yarn: turns within O above which a channel is kept; above <see cref="BetaSlow"/>. Default 32.</summary>
    public double BetaFast { get; init; } = 32;

    /// <summary>yarn: turns within O below which a channel is divided by the factor; positive. Default 1.</summary>
    public double BetaSlow { get; init; } = 1;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(RopeScaling), nameof(Factor), Factor, 1);
        OptionRange.AtLeast(nameof(RopeScaling), nameof(OriginalMaxPositionEmbeddings), OriginalMaxPositionEmbeddings ?? 1, 1);
        OptionRange.Positive(nameof(RopeScaling), nameof(LowFreqFactor), LowFreqFactor);
        OptionRange.Positive(nameof(RopeScaling), nameof(BetaSlow), BetaSlow);
        RequireAbove(nameof(HighFreqFactor), HighFreqFactor, nameof(LowFreqFactor), LowFreqFactor);
        RequireAbove(nameof(BetaFast), BetaFast, nameof(BetaSlow), BetaSlow);
        if (Kind is RopeScalingKind.Llama3 or RopeScalingKind.Yarn && OriginalMaxPositionEmbeddings is null)
        {
            throw new ArgumentException(
                $"RopeScaling: OriginalMaxPositionEmbeddings must be set for {Kind}; got none.", nameof(OriginalMaxPositionEmbeddings));
        }
    }

    /// <summary>Cosines and sines are multiplied by this: <c>0.1 ln(factor) + 1</c> for yarn, else 1.</summary>
    internal double Amplitude => Kind == RopeScalingKind.Yarn ? (0.1 * Math.Log(Factor)) + 1 : 1;

    /// <summary>What the kind uses of the values, as text.</summary>
    internal string Settings => Kind switch
    {
        RopeScalingKind.Linear => FormattableString.Invariant($"linear by {Factor}"),
        RopeScalingKind.Llama3 => FormattableString.Invariant(
            $"llama3 by {Factor}, {LowFreqFactor}..{HighFreqFactor} turns within {OriginalMaxPositionEmbeddings}"),
        RopeScalingKind.Yarn => FormattableString.Invariant($"yarn by {Factor}, {BetaSlow}..{BetaFast} turns within {OriginalMaxPositionEmbeddings}"),
        _ => "no scaling",
    };

    /// <summary>The frequencies of R/2 channels, in radians a position.</summary>
    internal double[] Frequencies(long rotaryWidth, double theta)
    {
        var plain = Enumerable.Range(0, (int)(rotaryWidth / 2)).Select(i => Math.Pow(theta, -2.0 * i / rotaryWidth));
        var share = Kind switch
        {
            RopeScalingKind.Linear => (_, _) => 1,
            RopeScalingKind.Llama3 => (frequency, _) => Llama3Share(frequency),
            RopeScalingKind.Yarn => YarnShare(rotaryWidth, theta),
            _ => new Func<double, int, double>((_, _) => 0),
        };
        return [.. plain.Select((frequency, i) => frequency * (1 - share(frequency, i) + (share(frequency, i) / Factor)))];
    }

    /// <summary>How much of a wave is divided by the factor: 1 for long waves, 0 for short ones, linear in its turns within O between.</summary>
    private double Llama3Share(double frequency)
    {
        var turns = OriginalMaxPositionEmbeddings!.Value * frequency / (2 * Math.PI);
        return 1 - Math.Clamp((turns - LowFreqFactor) / (HighFreqFactor - LowFreqFactor), 0, 1);
    }

    /// <summary>The same for yarn, linear in the channel between the two that turn BetaFast and BetaSlow times within O.</summary>
    private Func<double, int, double> YarnShare(long rotaryWidth, double theta)
    {
        var low = Math.Max(Math.Floor(ChannelThatTurns(BetaFast)), 0);
        var high = Math.Min(Math.Ceiling(ChannelThatTurns(BetaSlow)), rotaryWidth - 1);
        var length = Math.Max(high - low, 1e-3);
        return (_, i) => Math.Clamp((i - low) / length, 0, 1);

        double ChannelThatTurns(double times) =>
            rotaryWidth * Math.Log(OriginalMaxPositionEmbeddings!.Value / (2 * Math.PI * times)) / (2 * Math.Log(theta));
    }

    private static void RequireAbove(string option, double value, string other, double bound)
    {
        if (!(value > bound && double.IsFinite(value)))
        {
            throw new ArgumentOutOfRangeException(option, value, $"RopeScaling.{option} must be above {other}, {bound}; got {value}.");
        }
    }
}
