using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class LinearRecurrence
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<RecurrenceOnCuda> OnCuda { get; } = new("LinearRecurrence.Cuda", runtime => new(runtime), CudaSelfTest);

    /// <summary>The recurrence in kernels over chunks of time.</summary>
    internal static (Tensor Y, Tensor FinalState) Cuda(
        RecurrenceOnCuda kernel, Tensor x, Tensor logDecay, Tensor? initialState, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        return CudaRecurrence.Run(
            kernel, RecurrenceGates.None, new RecurrenceTensors(x, logDecay, null, initialState, mask, restart), stateGradient,
            x => Reference(x.X, x.Gates!, x.Initial, x.Mask, x.Restart));
    }

    /// <summary>The self-test: results and gradients of a small ragged recurrence, against the reference in float64.</summary>
    private static string? CudaSelfTest(RecurrenceOnCuda kernel, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 135, channels = 19;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 2, batch, time, channels).exp().neg(), SelfTest.Values(3, 1, batch, channels),
        ];
        return SelfTest.Difference(
            inputs, 1e-4, x => Cuda(kernel, x[0], x[1], x[2], null, null), x => Reference(x[0], x[1], x[2], null, null), device);
    }
}
