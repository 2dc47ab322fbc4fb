using static TorchSharp.torch;

namespace Hybrid;

/// <summary>Recurrent states are float32 whatever the weights are; only float64 weights, as in gradient checks, keep float64.</summary>
internal static class StatePrecision
{
    public static ScalarType Of(ScalarType weights) => weights == ScalarType.Float64 ? weights : ScalarType.Float32;
}
