using Hybrid.Attention;
using Hybrid.Mixers;

namespace Hybrid.Routing;

/// <summary>The paths of a <see cref="ParallelHybrid"/>.</summary>
public enum ParallelPath
{
    /// <summary>The state-space mixer.</summary>
    Mamba,

    /// <summary>Multi-head attention.</summary>
    Attention,

    /// <summary>Cross attention from one of the two outputs to the other; it needs both.</summary>
    Fusion,
}

/// <summary>What a <see cref="ParallelHybrid"/> does with the weights of its gate.</summary>
public enum ParallelHybridMode
{
    /// <summary>All paths run on every token and are summed with the token's weights.</summary>
    Weighted,

    /// <summary>All paths run on the first tokens of a sequence, on the others just the path that had the largest weight there.</summary>
    Adaptive,
}

/// <summary>Options of <see cref="ParallelHybrid"/>.</summary>
public sealed record ParallelHybridOptions
{
    /// <summary>Weighted (the default) or adaptive.</summary>
    public ParallelHybridMode Mode { get; init; }

    /// <summary>Adaptive mode: tokens W of a sequence from whose mean gate the path of the others is chosen; at least 1. Default 16.</summary>
    public long DecisionTokens { get; init; } = 16;

    /// <summary>
    /// Adaptive mode: factor of the loss that spreads sequences over the paths, see <see cref="MixerContext.AuxiliaryLosses"/>; 0 or
    /// more, 0 leaves it out. Default 0.01.
    /// </summary>
    public double LoadLossCoefficient { get; init; } = 0.01;

    /// <summary>Which output asks in the fusion path, mamba (the default) or attention; the other one gives keys and values.</summary>
    public ParallelPath FusionQueries { get; init; } = ParallelPath.Mamba;

    /// <summary>Adds the input to the output, for a layer that stands alone. Default false: the blocks of a backbone add it.</summary>
    public bool Residual { get; init; }

    /// <summary>
    /// Counts executed paths, gate weights and FLOPs for <see cref="ParallelHybrid.GetUsage"/>. Default true; in weighted mode it makes
    /// the host wait for the device once a call.
    /// </summary>
    public bool CollectMetrics { get; init; } = true;

    /// <summary>The state-space path.</summary>
    public MambaOptions MambaConfig { get; init; } = new();

    /// <summary>The attention path.</summary>
    public AttentionOptions AttentionConfig { get; init; } = new();

    /// <summary>The cross attention of the fusion path.</summary>
    public AttentionOptions FusionConfig { get; init; } = new();

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(ParallelHybridOptions), nameof(DecisionTokens), DecisionTokens, 1);
        OptionRange.AtLeast(nameof(ParallelHybridOptions), nameof(LoadLossCoefficient), LoadLossCoefficient, 0);
        if (FusionQueries is not (ParallelPath.Mamba or ParallelPath.Attention))
        {
            throw new ArgumentOutOfRangeException(
                nameof(FusionQueries), FusionQueries, $"ParallelHybridOptions.FusionQueries must be Mamba or Attention; got {FusionQueries}.");
        }

        if (!Enum.IsDefined(Mode))
        {
            throw new ArgumentOutOfRangeException(nameof(Mode), Mode, $"ParallelHybridOptions.Mode must be Weighted or Adaptive; got {Mode}.");
        }
    }
}
