using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cuda;

/// <summary>
/// What CUDA kernels of decoding steps ask of a layer's memory: everything contiguous and in the dtype of the input, but the recurrent state,
/// which is float32, and A_log, D, the bias of the step size and weights of norms, which may all be.
/// </summary>
internal static class StepMemory
{
    /// <summary>What is otherwise; empty where nothing is.</summary>
    /// <param name="dtype">The dtype of the input.</param>
    /// <param name="weights">Weights and the window of the convolution; null ones are none.</param>
    /// <param name="parameters">A_log, D, the bias of the step size and weights of norms; null ones are none, but not the first.</param>
    /// <param name="state">The recurrent state.</param>
    public static string Misfit(ScalarType dtype, ReadOnlySpan<Tensor?> weights, ReadOnlySpan<Tensor?> parameters, Tensor state)
    {
        foreach (var tensor in weights)
        {
            if (tensor is not null && (tensor.dtype != dtype || !tensor.is_contiguous()))
            {
                return $"a weight or the window is not {dtype} in one piece of memory";
            }
        }

        var own = parameters[0]!.dtype;
        foreach (var tensor in parameters)
        {
            if (tensor is not null && (tensor.dtype != own || (own != dtype && own != ScalarType.Float32) || !tensor.is_contiguous()))
            {
                return $"A_log, D, the step bias and norms are not all {dtype} or all Float32 in one piece of memory each";
            }
        }

        return state.dtype != ScalarType.Float32 || !state.is_contiguous() ? "the state is not Float32 in one piece of memory" : "";
    }
}
