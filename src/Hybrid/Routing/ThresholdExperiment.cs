using System.Diagnostics;
using System.Text;
using Hybrid.Modeling;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>What one threshold gave over the documents of a <see cref="ThresholdExperiment"/>.</summary>
/// <param name="Threshold">The threshold, in tokens.</param>
/// <param name="AttentionShare">Share of the decisions for attention, 0..1.</param>
/// <param name="MambaShare">Share of the decisions for the state-space branch, 0..1.</param>
/// <param name="MeanMs">Mean time of a document, forward and loss, in milliseconds.</param>
/// <param name="SlowestMs">Time of the slowest document, in milliseconds.</param>
/// <param name="PeakMemoryMib">Largest resident memory of the process while this threshold ran, in MiB, free memory having been given back before; null where the system does not tell.</param>
/// <param name="NegativeLogLikelihood">Mean over all tokens, in nats a token.</param>
public sealed record ThresholdResult(
    long Threshold, double AttentionShare, double MambaShare, double MeanMs, double SlowestMs, double? PeakMemoryMib, double NegativeLogLikelihood);

/// <summary>
/// Compares thresholds of a model's routers over documents: route shares, time, memory, likelihood. Which threshold is best is a question
/// of data, weights and machine; this answers it by running them.
/// </summary>
public static class ThresholdExperiment
{
    /// <summary>Runs every document with every threshold, in evaluation mode, without gradients. The routers are left as they were.</summary>
    /// <param name="model">A model with at least one router.</param>
    /// <param name="thresholds">Thresholds in tokens, each at least 1.</param>
    /// <param name="documents">Token ids; at least two a document, no more than the model takes.</param>
    /// <param name="attentionMaxLength">Longest sequence for attention; null means no limit.</param>
    /// <returns>One result a threshold, in their order.</returns>
    /// <exception cref="ArgumentException">The model has no router, or there is no threshold or document, or one is too short.</exception>
    public static IReadOnlyList<ThresholdResult> Run(
        CausalLanguageModel model, IReadOnlyList<long> thresholds, IReadOnlyList<IReadOnlyList<long>> documents, long? attentionMaxLength = null)
    {
        var routers = model.Routers;
        if (routers.Count == 0 || thresholds.Count == 0 || documents.Count == 0 || documents.Any(document => document.Count < 2))
        {
            throw new ArgumentException(
                "ThresholdExperiment: expected a model with routers, at least one threshold, and documents of at least 2 tokens; got " +
                $"{routers.Count} routers, {thresholds.Count} thresholds and {documents.Count} documents, the shortest of " +
                $"{documents.Select(document => document.Count).DefaultIfEmpty(0).Min()} tokens.");
        }

        var policies = thresholds.Select(threshold => new LengthThresholdPolicy(threshold, attentionMaxLength ?? long.MaxValue)).ToArray();
        var (before, wasTraining) = (routers.Select(router => router.Policy).ToArray(), model.training);
        try
        {
            model.eval();
            using var guard = no_grad();
            Loss(model, documents[0]);
            return [.. policies.Select(policy => Measure(model, routers, policy, documents))];
        }
        finally
        {
            model.train(wasTraining);
            foreach (var (router, policy) in routers.Zip(before))
            {
                router.Policy = policy;
            }
        }
    }

    /// <summary>The results as a table in Markdown.</summary>
    /// <param name="results">What <see cref="Run"/> gave.</param>
    /// <returns>The table.</returns>
    public static string ToMarkdown(IEnumerable<ThresholdResult> results)
    {
        var table = new StringBuilder("| threshold | attention | mamba | mean ms | slowest ms | peak MiB | NLL |\n|---|---|---|---|---|---|---|\n");
        foreach (var result in results)
        {
            var peak = result.PeakMemoryMib is { } mib ? $"{mib:f0}" : "unknown";
            table.Append(
                $"| {result.Threshold} | {result.AttentionShare:p0} | {result.MambaShare:p0} | {result.MeanMs:f1} | {result.SlowestMs:f1} " +
                $"| {peak} | {result.NegativeLogLikelihood:f4} |\n");
        }

        return table.ToString();
    }

    private static ThresholdResult Measure(
        CausalLanguageModel model, IReadOnlyList<HybridAttention> routers, LengthThresholdPolicy policy, IReadOnlyList<IReadOnlyList<long>> documents)
    {
        foreach (var router in routers)
        {
            router.Policy = policy;
        }

        var tellsPeak = PeakMemory.Forget();
        var (sum, tokens, times, attention) = (0.0, 0L, new List<double>(), 0L);
        foreach (var document in documents)
        {
            var start = Stopwatch.GetTimestamp();
            sum += Loss(model, document) * (document.Count - 1);
            times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            tokens += document.Count - 1;
            attention += routers.Count(router => router.Decide(document.Count - 1).Route == Route.Attention);
        }

        var share = (double)attention / (documents.Count * routers.Count);
        return new ThresholdResult(policy.Threshold, share, 1 - share, times.Average(), times.Max(), tellsPeak ? PeakMemory.Mib() : null, sum / tokens);
    }

    private static double Loss(CausalLanguageModel model, IReadOnlyList<long> document)
    {
        using var scope = NewDisposeScope();
        var ids = tensor(document.ToArray(), dtype: ScalarType.Int64).to(model.Device).unsqueeze(0);
        return model.Loss(ids.narrow(1, 0, document.Count - 1), ids.narrow(1, 1, document.Count - 1)).ToDouble();
    }
}
