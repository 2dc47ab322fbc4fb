using static TorchSharp.torch;

namespace Hybrid;

/// <summary>What a layer gives when it is asked to say what it did.</summary>
/// <typeparam name="TMetrics">The layer's metrics of a call.</typeparam>
/// <param name="Output">Output [B, T, D], as <c>forward</c> gives it.</param>
/// <param name="Metrics">What the call did.</param>
public sealed record HybridOutput<TMetrics>(Tensor Output, TMetrics Metrics);
