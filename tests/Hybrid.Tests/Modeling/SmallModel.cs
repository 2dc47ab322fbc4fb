using Hybrid.Attention;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Layers;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

/// <summary>Language models of a few thousand weights, the same for the same seed.</summary>
internal static class SmallModel
{
    /// <summary>Its embeddings are scaled up, so that logits differ enough for greedy texts to wander over the vocabulary.</summary>
    public static CausalLanguageModel Create(LanguageModelOptions? options = null, double embeddingScale = 20, long seed = 3)
    {
        manual_seed(seed);
        var model = new CausalLanguageModel(options ?? Options());
        model.eval();
        using var guard = no_grad();
        using var scope = NewDisposeScope();
        model.get_parameter("embedding.weight")!.mul_(embeddingScale);
        model.get_parameter("lm_head.weight")?.mul_(embeddingScale);
        return model;
    }

    /// <summary>One layer of each mixer.</summary>
    public static LanguageModelOptions Options(long vocabulary = 40, long maxLength = 64, long mambaThreshold = 512) => new()
    {
        VocabSize = vocabulary,
        HiddenSize = 16,
        NumLayers = 3,
        MaxSeqLen = maxLength,
        TieEmbeddings = false,
        Layers = ["mamba", "attention", "hybrid_attention"],
        FeedForward = new() { IntermediateSize = 24 },
        Mixers = new Dictionary<string, object>
        {
            ["mamba"] = new MambaOptions { DState = 4 },
            ["attention"] = new AttentionOptions { NumHeads = 4, NumKeyValueHeads = 2 },
            ["hybrid_attention"] = new HybridAttentionOptions
            {
                MambaThreshold = mambaThreshold, AttentionConfig = new() { NumHeads = 2 }, MambaConfig = new() { DState = 3 },
            },
        },
    };

    /// <summary>int64 [rows, length] of tokens that depend on the seed alone.</summary>
    public static Tensor Tokens(int rows, int length, int vocabulary = 40, int seed = 1)
    {
        var random = new Random(seed);
        return tensor(Enumerable.Range(0, rows * length).Select(_ => (long)random.Next(vocabulary)).ToArray()).view(rows, length);
    }

    /// <summary>Logits of the last position of a whole forward pass.</summary>
    public static float[] NextLogits(CausalLanguageModel model, IReadOnlyList<int> tokens)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var logits = model.call(tensor(tokens.Select(token => (long)token).ToArray()).unsqueeze(0));
        return [.. Values.Of(logits[0][tokens.Count - 1]).Select(value => (float)value)];
    }
}
