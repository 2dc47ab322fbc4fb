using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>What one set of projections makes of some consecutive tokens, for attention and for the state space alike.</summary>
/// <param name="Query">Q of attention, C of the state space: [B, T, G, N].</param>
/// <param name="Key">K of attention, without rotary positions, and B of the state space: [B, T, G, N].</param>
/// <param name="Value">V of attention, x of the state space: [B, T, H, K].</param>
/// <param name="Step">Step sizes of the state space, before bias and softplus: [B, T, H].</param>
internal readonly record struct SharedProjections(Tensor Query, Tensor Key, Tensor Value, Tensor Step)
{
    /// <summary>A range of the tokens.</summary>
    public SharedProjections Narrow(long first, long count) => new(
        Query.narrow(1, first, count), Key.narrow(1, first, count), Value.narrow(1, first, count), Step.narrow(1, first, count));
}
