namespace Hybrid.Routing;

/// <summary>Whether attention and the state space have weights of their own.</summary>
public enum BranchWeights
{
    /// <summary>Two branches; a router sends each sequence down one of them.</summary>
    Separate,

    /// <summary>
    /// One set that serves both, <see cref="TransPointMixer"/>: the tokens of a sequence before the threshold are attention's, the later
    /// ones the state space's. Nothing is left to route, so <see cref="MixerRegistry.Create"/> makes that mixer in the place of a router.
    /// </summary>
    Shared,
}

/// <summary>What <c>weights = "shared"</c> makes of the options of a router.</summary>
internal static class SharedWeights
{
    /// <summary>The mixer that the options ask for.</summary>
    /// <param name="width">Model width D.</param>
    /// <param name="options">The options of a router.</param>
    /// <returns>A <see cref="HybridAttention"/>; with shared weights a <see cref="TransPointMixer"/>, in its residual branch if there is one.</returns>
    public static SequenceMixer Create(long width, HybridAttentionOptions options)
    {
        if (options.Weights == BranchWeights.Separate)
        {
            return new HybridAttention(width, options);
        }

        options.Validate();
        var shared = options.SharedConfig ?? new();
        return HybridAttention.Wrap(
            new TransPointMixer(width, HasPoints(shared) ? shared : shared with { TransPoint = options.MambaThreshold }), options);
    }

    /// <summary>Throws where options of the router are given that have no effect.</summary>
    public static void Validate(HybridAttentionOptions options)
    {
        if (options.Weights == BranchWeights.Separate)
        {
            if (options.SharedConfig is not null)
            {
                throw new ArgumentException(
                    "HybridAttentionOptions: SharedConfig is of shared weights; set Weights to Shared or leave it out.", nameof(options.SharedConfig));
            }

            return;
        }

        var effective = new HybridAttentionOptions
        {
            Weights = options.Weights,
            SharedConfig = options.SharedConfig,
            ResidualBranches = options.ResidualBranches,
            IntermediateSize = options.IntermediateSize,
            DropoutRate = options.DropoutRate,
            LayerNormEps = options.LayerNormEps,
        };
        if (options.SharedConfig is null || !HasPoints(options.SharedConfig))
        {
            effective = effective with { MambaThreshold = options.MambaThreshold };
        }

        if (options != effective)
        {
            throw new ArgumentException(
                "HybridAttentionOptions: with shared weights the position of a token decides, by MambaThreshold or else the points of SharedConfig; " +
                "besides these and the residual branches' options none has an effect, so leave the others out.",
                nameof(options.Weights));
        }
    }

    /// <summary>The options of one layer of a backbone; see <see cref="TransPointOptions.ForLayer"/>.</summary>
    /// <param name="options">The options of a router.</param>
    /// <param name="index">Number of the layer among those that have this mixer, from 0.</param>
    /// <param name="points">TransPoints for the layers, in the place of the options' own; null leaves those.</param>
    public static HybridAttentionOptions ForLayer(HybridAttentionOptions options, int index, IReadOnlyList<long>? points)
    {
        if (options.Weights == BranchWeights.Separate)
        {
            return options;
        }

        Validate(options);
        var shared = options.SharedConfig ?? new();
        return options with { SharedConfig = (points is null ? shared : shared with { TransPoints = points }).ForLayer(index) };
    }

    private static bool HasPoints(TransPointOptions options) => options.TransPoint is not null || options.TransPoints is not null;
}
