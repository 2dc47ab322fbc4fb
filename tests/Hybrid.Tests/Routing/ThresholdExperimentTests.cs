using Hybrid.Attention;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public sealed class ThresholdExperimentTests : IDisposable
{
    private static readonly IReadOnlyList<long>[] Documents = [Document(5), Document(21), Document(33), Document(41)];
    private readonly DisposeScope scope = NewDisposeScope();
    private readonly CausalLanguageModel model = Make(["hybrid_attention", "hybrid_attention"]);

    public void Dispose()
    {
        model.Dispose();
        scope.Dispose();
    }

    [Fact]
    public void EveryThresholdHasItsSharesTimesAndLikelihood()
    {
        model.train();
        var policies = model.Routers.Select(router => router.Policy).ToArray();
        var before = LiveTensors.Before();
        var results = ThresholdExperiment.Run(model, [1, 21, 1000], Documents);
        Assert.Equal(before, Tensor.TotalCount);
        Assert.Equal([0, 0.5, 1], results.Select(result => result.AttentionShare));
        Assert.Equal([1, 0.5, 0], results.Select(result => result.MambaShare));
        Assert.All(results, result => Assert.True(result.MeanMs > 0 && result.SlowestMs >= result.MeanMs && result.PeakMemoryMib is null or > 1));

        // The routers are as they were, and the model trains on.
        Assert.Equal(policies, model.Routers.Select(router => router.Policy));
        Assert.True(model.training);

        model.eval();
        foreach (var (threshold, i) in new[] { 1L, 21, 1000 }.Select((threshold, i) => (threshold, i)))
        {
            Assert.Equal(NaiveLikelihood(threshold), results[i].NegativeLogLikelihood, 1e-5);
        }
    }

    [Fact]
    public void TheTableHasALineAThreshold()
    {
        var table = ThresholdExperiment.ToMarkdown([new ThresholdResult(512, 0.25, 0.75, 1.26, 3.04, null, 2.5), new ThresholdResult(64, 0, 1, 1, 2, 300.4, 2.25)]);
        Assert.Equal(
            "| threshold | attention | mamba | mean ms | slowest ms | peak MiB | NLL |\n|---|---|---|---|---|---|---|\n" +
            "| 512 | 25 % | 75 % | 1.3 | 3.0 | unknown | 2.5000 |\n| 64 | 0 % | 100 % | 1.0 | 2.0 | 300 | 2.2500 |\n",
            table);
    }

    [Fact]
    public void WhatCannotBeComparedIsRefused()
    {
        using var without = Make(["mamba"]);
        Expect("got 0 routers, 1 thresholds and 4 documents", () => ThresholdExperiment.Run(without, [5], Documents));
        Expect("got 2 routers, 0 thresholds", () => ThresholdExperiment.Run(model, [], Documents));
        Expect("0 documents", () => ThresholdExperiment.Run(model, [5], []));
        Expect("the shortest of 1 tokens", () => ThresholdExperiment.Run(model, [5], [[1]]));
        Expect("threshold must be at least 1; got 0", () => ThresholdExperiment.Run(model, [0], Documents));

        static void Expect(string text, Action action) =>
            Assert.Contains(text, Assert.ThrowsAny<ArgumentException>(action).Message, StringComparison.Ordinal);
    }

    private double NaiveLikelihood(long threshold)
    {
        using var guard = no_grad();
        var (sum, count) = (0.0, 0);
        foreach (var document in Documents)
        {
            foreach (var router in model.Routers)
            {
                router.Override = document.Count - 1 >= threshold ? Route.Mamba : Route.Attention;
            }

            var logits = model.call(tensor(document.ToArray()).narrow(0, 0, document.Count - 1).unsqueeze(0))[0].log_softmax(-1);
            for (var t = 1; t < document.Count; t++)
            {
                sum -= logits[t - 1][document[t]].ToDouble();
                count++;
            }
        }

        return sum / count;
    }

    private static CausalLanguageModel Make(string[] layers)
    {
        manual_seed(4);
        return new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 13,
            HiddenSize = 8,
            NumLayers = layers.Length,
            Layers = layers,
            Mixers = layers.Contains("mamba")
                ? new Dictionary<string, object>()
                : new Dictionary<string, object> { ["hybrid_attention"] = new HybridAttentionOptions { AttentionConfig = new AttentionOptions { NumHeads = 2 } } },
        });
    }

    private static long[] Document(int length) => [.. Enumerable.Range(0, length).Select(i => ((long)i * i * 7) % 13)];
}
