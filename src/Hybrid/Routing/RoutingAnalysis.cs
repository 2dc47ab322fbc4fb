using TorchSharp;

namespace Hybrid.Routing;

/// <summary>What the parallel hybrids of a model executed since their construction or the last reset, layer by layer and together.</summary>
/// <param name="Layers">The layers, first one first.</param>
public sealed record RoutingAnalysis(IReadOnlyList<PathUsage> Layers)
{
    /// <summary>Mean of the layers' gate weights; zeros where there are no layers.</summary>
    public PerPath<double> AverageGateWeights => new(
        Average(weights => weights.Mamba), Average(weights => weights.Attention), Average(weights => weights.Fusion));

    /// <summary>Sequences that were given to each path, over all layers.</summary>
    public PerPath<long> Decisions => new(
        Layers.Sum(layer => layer.Decisions.Mamba), Layers.Sum(layer => layer.Decisions.Attention), Layers.Sum(layer => layer.Decisions.Fusion));

    /// <summary>FLOPs of all layers that were not spent, as a share of those of all paths; see <see cref="PathUsage.SavedFlops"/>.</summary>
    public double SavedFlops => Layers.Sum(layer => layer.FullFlops) is > 0 and var full ? 1 - (Layers.Sum(layer => layer.ExecutedFlops) / full) : 0;

    /// <summary>Reads the counts of a model.</summary>
    /// <param name="model">A model, a backbone, or a <see cref="ParallelHybrid"/> itself.</param>
    /// <returns>The analysis.</returns>
    public static RoutingAnalysis Of(torch.nn.Module model) => new([.. Find(model).Select(layer => layer.GetUsage())]);

    /// <summary>Sets the counts of a model to zero.</summary>
    /// <param name="model">A model, a backbone, or a <see cref="ParallelHybrid"/> itself.</param>
    public static void Reset(torch.nn.Module model)
    {
        foreach (var layer in Find(model))
        {
            layer.ResetUsage();
        }
    }

    private static IEnumerable<ParallelHybrid> Find(torch.nn.Module model) =>
        model is ParallelHybrid layer ? [layer] : model.modules().OfType<ParallelHybrid>();

    private double Average(Func<PerPath<double>, double> weight) => Layers.Count == 0 ? 0 : Layers.Average(layer => weight(layer.GateWeights));
}
