namespace Hybrid.Routing;

/// <summary>
/// A policy and the cache of its decisions. The pair is replaced as a whole, so that no decision of an earlier policy can reach the
/// cache of a later one.
/// </summary>
internal sealed class RouteDecider(RoutingPolicy policy, HybridAttentionOptions options)
{
    /// <summary>The policy.</summary>
    public RoutingPolicy Policy { get; } = policy;

    /// <summary>The cache; null where decisions are not kept.</summary>
    public DecisionCache? Cache { get; } = options.EnableCaching ? new DecisionCache(options.CacheCapacity) : null;

    /// <summary>The decision for a request.</summary>
    public RoutingDecision Decide(in RoutingRequest request) => Cache is null ? Policy.Decide(request) : Cache.Decide(Policy, request);
}
