using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedAverage
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<RecurrenceOnCuda> OnCuda { get; } = new("GatedAverage.Cuda", runtime => new(runtime), CudaSelfTest);

    /// <summary>The average in kernels over chunks of time.</summary>
    internal static (Tensor Y, Tensor FinalState) Cuda(
        RecurrenceOnCuda kernel, Tensor valuesAndGates, Tensor decay, Tensor? logits, Tensor? initialState, Tensor? mask, Tensor? restart,
        bool stateGradient = true)
    {
        var tensors = new RecurrenceTensors(valuesAndGates, logits, decay.unsqueeze(0), initialState, mask, restart);
        return CudaRecurrence.Run(
            kernel, RecurrenceGates.GatedAverage, tensors, stateGradient, x => Reference(x.X, x.Constants![0], x.Gates, x.Initial, x.Mask, x.Restart));
    }

    /// <summary>The self-test: results and gradients of a small ragged average, against the reference in float64.</summary>
    private static string? CudaSelfTest(RecurrenceOnCuda kernel, Device device)
    {
        using var scope = NewDisposeScope();
        return SelfTest.Difference(
            SelfTestInputs(batch: 2, time: 135), 1e-4, x => Cuda(kernel, x[0], x[1], x[2], x[3], null, null),
            x => Reference(x[0], x[1], x[2], x[3], null, null), device);
    }
}
