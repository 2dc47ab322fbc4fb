namespace Hybrid.Routing;

/// <summary>
/// Chooses the branch of a sequence. A policy of one's own derives from this class, exactly as those of the library do:
/// <code>
/// sealed class LongBatchesPolicy() : RoutingPolicy("long_batches")
/// {
///     public override RoutingDecision Decide(in RoutingRequest request) =>
///         new(request.BatchSize > 8 ? Route.Mamba : Route.Attention, RoutingReason.Rule, "batch", 1, request.Length, 0);
/// }
/// router.Policy = new LongBatchesPolicy();
/// </code>
/// </summary>
/// <remarks>
/// Decisions are cached: equal requests must have equal decisions as long as <see cref="Version"/> stays the same. Policies are called
/// from several threads at once.
/// </remarks>
public abstract class RoutingPolicy
{
    /// <param name="id">Name of the policy, part of the cache key and of log entries; not empty.</param>
    protected RoutingPolicy(string id)
    {
        ArgumentException.ThrowIfNullOrEmpty(id);
        Id = id;
    }

    /// <summary>Name of the policy.</summary>
    public string Id { get; }

    /// <summary>Grows by one whenever decisions may differ from earlier ones. Default 1: a policy that never changes.</summary>
    public virtual int Version => 1;

    /// <summary>What the policy reads besides the length, the batch, the mode, dtype and device. Default: nothing.</summary>
    public virtual RoutingInputs Inputs => RoutingInputs.None;

    /// <summary>The length threshold in force, in tokens; 0, the default, for a policy that has none.</summary>
    public virtual long Threshold => 0;

    /// <summary>Decides for one sequence.</summary>
    /// <param name="request">What is known of it.</param>
    /// <returns>The decision.</returns>
    /// <exception cref="ArgumentOutOfRangeException">Length or batch size is below 1.</exception>
    public abstract RoutingDecision Decide(in RoutingRequest request);

    /// <summary>The decision that an override stands for.</summary>
    /// <param name="route">The forced branch.</param>
    /// <param name="length">Length in tokens.</param>
    /// <returns>A decision of confidence 1.</returns>
    public RoutingDecision Force(Route route, long length) => new(route, RoutingReason.Forced, "forced", 1, length, Threshold);
}
