using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class RgLru
{
    /// <summary>How much faster than the rate the decay of an open gate is.</summary>
    internal const double Exponent = 8;

    // The smallest normal float32. A gate that is exactly 0 makes 1 - a^2 exactly 0, where the root has no derivative.
    private const double SmallestSquare = 1.1754944e-38;

    /// <summary>The unit from plain tensor operations, on any device, differentiable by autograd.</summary>
    internal static (Tensor Y, Tensor FinalState) Reference(
        Tensor x, Tensor inputGateWeight, Tensor inputGateBias, Tensor recurrentGateWeight, Tensor recurrentGateBias, Tensor recurrentParam,
        Tensor? initialState, Tensor? firstTokens, Tensor? mask)
    {
        var (logDecay, input) = Coefficients(
            x, inputGateWeight, inputGateBias, recurrentGateWeight, recurrentGateBias, recurrentParam, firstTokens);
        var (y, state) = LinearRecurrence.Reference(input, logDecay, initialState, mask, firstTokens);
        return (y.to_type(x.dtype), state);
    }

    /// <summary>The unit behind the products x W_i and x W_r [B, T, E], in their dtype; the rate is -8 softplus(p) [E], biases are [E].</summary>
    private static (Tensor Y, Tensor FinalState) BehindProducts(
        Tensor x, Tensor inputProduct, Tensor recurrentProduct, Tensor rate, Tensor inputBias, Tensor recurrentBias, Tensor? initialState,
        Tensor? firstTokens, Tensor? mask)
    {
        var (logDecay, input) = Coefficients(x, (inputProduct + inputBias).sigmoid(), (recurrentProduct + recurrentBias).sigmoid(), rate, firstTokens);
        return LinearRecurrence.Reference(input, logDecay, initialState, mask, firstTokens);
    }

    /// <summary>
    /// The recurrence behind the gates, [B, T, E] each: log a_t, and the driving term sqrt(1 - a_t^2) i_t x_t, whose factor is 1 at first
    /// tokens. 1 - a^2 is -expm1(2 log a), which is exact where a is close to 1.
    /// </summary>
    internal static (Tensor LogDecay, Tensor Input) Coefficients(
        Tensor x, Tensor inputGateWeight, Tensor inputGateBias, Tensor recurrentGateWeight, Tensor recurrentGateBias, Tensor recurrentParam, Tensor? firstTokens)
    {
        var dtype = x.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        return Coefficients(
            x.to_type(dtype), Gate(x, inputGateWeight, inputGateBias, dtype), Gate(x, recurrentGateWeight, recurrentGateBias, dtype),
            recurrentParam.to_type(dtype).softplus() * -Exponent, firstTokens);
    }

    /// <summary>The same from the gates [B, T, E] and the rate -8 softplus(p) [E].</summary>
    private static (Tensor LogDecay, Tensor Input) Coefficients(Tensor x, Tensor inputGate, Tensor recurrentGate, Tensor rate, Tensor? firstTokens)
    {
        var logDecay = recurrentGate * rate;
        var multiplier = (logDecay * 2).expm1().neg().clamp_min(SmallestSquare).sqrt();
        if (firstTokens is not null)
        {
            multiplier = multiplier.masked_fill(firstTokens.unsqueeze(-1), 1);
        }

        return (logDecay, multiplier * inputGate * x);
    }

    /// <summary>sigmoid(x W + b) with block-diagonal W: [B, T, E].</summary>
    private static Tensor Gate(Tensor x, Tensor weight, Tensor bias, ScalarType dtype)
    {
        var shape = x.shape;
        var (blocks, width) = (weight.size(0), weight.size(1));
        var rows = x.reshape(-1, blocks, width).transpose(0, 1);                         // [H, B * T, w]
        var product = bmm(rows, weight.to_type(x.dtype)).transpose(0, 1);                // [B * T, H, w]
        return (product.to_type(dtype) + bias.to_type(dtype)).sigmoid().reshape(shape);
    }
}
