using System.Collections.Concurrent;
using Hybrid.Configuration;

namespace Hybrid.Routing;

/// <summary>
/// The policies that <c>policy = "name"</c> can mean. The library's own and those of users are registered in the same way:
/// <c>RoutingPolicyRegistry.Register("mine", options => new MyPolicy(options.MambaThreshold))</c>.
/// </summary>
public static class RoutingPolicyRegistry
{
    /// <summary>The length policy, which is the default.</summary>
    public const string Length = "length";

    private static readonly ConcurrentDictionary<string, Func<HybridAttentionOptions, RoutingPolicy>> Factories = new(StringComparer.Ordinal)
    {
        [Length] = ByLength,
        ["content"] = options => new ContentPolicy(options.Content, ByLength(options)),
        ["adaptive"] = options => new AdaptivePolicy(options.Adaptive, ByLength(options)),
        ["composite"] = options => new CompositePolicy(options.Composite ?? new CompositePolicyOptions(), options.Content, ByLength(options)),
    };

    /// <summary>All registered names, sorted.</summary>
    public static IReadOnlyList<string> Names => [.. Factories.Keys.Order(StringComparer.Ordinal)];

    /// <summary>Registers a policy under a new name.</summary>
    /// <param name="name">Name in TOML.</param>
    /// <param name="create">Makes the policy from the options of the router.</param>
    /// <exception cref="ArgumentException">The name is empty or taken.</exception>
    public static void Register(string name, Func<HybridAttentionOptions, RoutingPolicy> create)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        if (!Factories.TryAdd(name, create))
        {
            throw new ArgumentException($"RoutingPolicyRegistry: '{name}' is registered already.", nameof(name));
        }
    }

    /// <summary>Makes the policy that options name.</summary>
    /// <param name="options">The options of a router.</param>
    /// <returns>The policy.</returns>
    /// <exception cref="ArgumentException">The name is unknown, or an option of the policy is out of its range.</exception>
    public static RoutingPolicy Create(HybridAttentionOptions options) => Find(options.Policy)(options);

    /// <summary>Throws where no policy has this name.</summary>
    internal static Func<HybridAttentionOptions, RoutingPolicy> Find(string name) =>
        Factories.TryGetValue(name, out var create)
            ? create
            : throw new ArgumentException(
                $"{nameof(HybridAttentionOptions)}.{nameof(HybridAttentionOptions.Policy)} must be one of {string.Join(", ", Names)}; got '{name}'" +
                $"{NearestName.Hint(name, Names)}.",
                nameof(HybridAttentionOptions.Policy));

    private static LengthThresholdPolicy ByLength(HybridAttentionOptions options) =>
        new(options.MambaThreshold, options.TransformerMaxLength, options.Confidence);
}
