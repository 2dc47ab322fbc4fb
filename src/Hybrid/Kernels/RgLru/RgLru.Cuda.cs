using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class RgLru
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<RecurrenceOnCuda> OnCuda { get; } = new("RgLru.Cuda", runtime => new(runtime), CudaSelfTest);

    /// <summary>The unit as the products with the gate weights, which kernels read as they are, and all else in kernels over chunks of time.</summary>
    internal static (Tensor Y, Tensor FinalState) Cuda(
        RecurrenceOnCuda kernel, Tensor x, Tensor inputGateWeight, Tensor inputGateBias, Tensor recurrentGateWeight, Tensor recurrentGateBias,
        Tensor recurrentParam, Tensor? initialState, Tensor? firstTokens, Tensor? mask, bool stateGradient = true)
    {
        var shape = x.shape;
        var (blocks, width) = (inputGateWeight.size(0), inputGateWeight.size(1));
        var products = BlockProducts(x, inputGateWeight, recurrentGateWeight).view(blocks, shape[0], shape[1], 2 * width);
        var constants = stack(
        [
            recurrentParam.to_type(ScalarType.Float32).softplus() * -Exponent, inputGateBias.to_type(ScalarType.Float32).flatten(),
            recurrentGateBias.to_type(ScalarType.Float32).flatten(),
        ]);
        var tensors = new RecurrenceTensors(x, products, constants, initialState, mask, firstTokens);
        return CudaRecurrence.Run(kernel, RecurrenceGates.RgLru, tensors, stateGradient, Composed);

        static (Tensor Y, Tensor State) Composed(RecurrenceTensors x)
        {
            var shape = x.X.shape;
            var products = x.Gates!.to_type(ScalarType.Float32).permute(1, 2, 0, 3).chunk(2, -1);           // [B, T, H, w] each
            var (y, state) = BehindProducts(
                x.X.to_type(ScalarType.Float32), products[0].reshape(shape), products[1].reshape(shape), x.Constants![0], x.Constants[1], x.Constants[2],
                x.Initial, x.Restart, x.Mask);
            return (y.to_type(x.X.dtype), state);
        }
    }

    /// <summary>The self-test: results and gradients of a small ragged unit with a second first token, against the reference in float64.</summary>
    private static string? CudaSelfTest(RecurrenceOnCuda kernel, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 135;
        var first = arange(time, device: device).eq(71).unsqueeze(0).expand(batch, time);
        return SelfTest.Difference(
            SelfTestInputs(batch, time), 1e-4, x => Cuda(kernel, x[0], x[1], x[2], x[3], x[4], x[5], x[6], first, null),
            x => Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], first, null), device);
    }
}
