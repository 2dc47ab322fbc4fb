using Hybrid.Routing;

namespace Hybrid.Tests.Routing;

/// <summary>One policy of each kind, and requests that make them decide both ways.</summary>
internal static class SamplePolicies
{
    private static readonly LengthThresholdPolicy ByLength = new(512, 2048);

    public static IReadOnlyDictionary<string, RoutingPolicy> All { get; } = new Dictionary<string, RoutingPolicy>
    {
        ["length, margin"] = ByLength,
        ["length, classic"] = new LengthThresholdPolicy(4096, 2048, ConfidenceKind.Classic),
        ["content"] = new ContentPolicy(new ContentPolicyOptions { VarianceWeight = 0.5 }, new LengthThresholdPolicy(512, 4000)),
        ["adaptive"] = new AdaptivePolicy(
            new RoutingCalibration { Lengths = [64, 1024], AttentionMs = [1, 9], MambaMs = [2, 3] }, new LengthThresholdPolicy(512, 1_000_000)),
        ["rules"] = new CompositePolicy(
            new CompositePolicyOptions { Rules = ["training and length > 1024 -> mamba", "novelty >= 0.75 and length < 3000 -> attention"] },
            null,
            ByLength),
        ["weighted"] = new CompositePolicy(
            new CompositePolicyOptions { Mode = CompositeMode.Weighted, ContentWeight = 1, BatchWeight = 0.5, MemoryWeight = 0.25, TrainingWeight = 0.1 },
            null,
            ByLength),
    };

    /// <summary>A request whose content and memory vary with the length.</summary>
    public static RoutingRequest Request(long length, bool training) => new(length)
    {
        Training = training,
        BatchSize = 1 + (length % 3),
        Content = new ContentFeatures(length % 7 / 7.0, length % 11 / 11.0, length % 5 / 5.0),
        FreeMemoryMib = 256 * (length % 13),
    };
}
