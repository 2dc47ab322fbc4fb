using Hybrid.Attention;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;

namespace Hybrid.Samples;

/// <summary>
/// A kind of model: two layers of a mixer and a feed-forward layer, whose width gives every model as many parameters. Attention has one
/// head, as in Zoology, and rotary positions only where no recurrent layer tells it the order, as in Jamba.
/// </summary>
internal sealed record Contender(string Name, string[] Layers, bool StateBridge = false)
{
    private const long Heads = 1;

    /// <summary>The models that are compared. The parallel hybrid has the largest mixers, so it sets the number of parameters.</summary>
    public static IReadOnlyList<Contender> All { get; } =
    [
        new("attention", ["attention", "attention"]),
        new("mamba", ["mamba", "mamba"]),
        new("interleaved", ["mamba", "attention"]),
        new("interleaved+bridge", ["mamba", "attention"], StateBridge: true),
        new("staggered", ["trans_point", "trans_point"]),
        new("parallel", ["parallel_hybrid", "parallel_hybrid"]),
    ];

    /// <summary>The options of a model with so many parameters, or as close to it as its feed-forward width allows.</summary>
    public LanguageModelOptions Options(RecallTask task, long width, long parameters)
    {
        // The number of parameters is linear in the feed-forward width.
        var (narrow, wide) = (Count(Build(task, width, 1)), Count(Build(task, width, 2)));
        return Build(task, width, Math.Max(1, 1 + ((parameters - narrow) / (wide - narrow))));
    }

    /// <summary>Parameters of the model with a feed-forward layer as wide as the model.</summary>
    public long Parameters(RecallTask task, long width) => Count(Build(task, width, width));

    private static long Count(LanguageModelOptions options)
    {
        using var model = new CausalLanguageModel(options);
        return model.CountParameters();
    }

    private LanguageModelOptions Build(RecallTask task, long width, long feedForward)
    {
        var (mamba, attention) = (new MambaOptions(), new AttentionOptions { NumHeads = Heads, UseRope = Layers.All(layer => layer == "attention") });
        var options = new Dictionary<string, object>
        {
            ["mamba"] = mamba,
            ["attention"] = attention,
            // The first layer is a state space throughout; the second one turns from attention to it halfway through a training sequence.
            ["trans_point"] = new TransPointOptions { TransPoints = [0, task.TrainingLength / 2] },
            ["parallel_hybrid"] = new ParallelHybridOptions { MambaConfig = mamba, AttentionConfig = attention, FusionConfig = attention },
        };
        return new LanguageModelOptions
        {
            VocabSize = task.VocabSize,
            HiddenSize = width,
            NumLayers = Layers.Length,
            MaxSeqLen = task.TestLengths[^1],
            Layers = Layers,
            StateBridge = StateBridge,
            FeedForward = new FeedForwardOptions { IntermediateSize = feedForward },
            Mixers = options.Where(entry => Layers.Contains(entry.Key)).ToDictionary(),
        };
    }
}
