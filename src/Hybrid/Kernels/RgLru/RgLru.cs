using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The real-gated linear recurrent unit (RG-LRU) of Griffin (De et al., arXiv 2402.19427, equations 1 to 4):
/// <c>i_t = sigmoid(x_t W_i + b_i)</c>, <c>r_t = sigmoid(x_t W_r + b_r)</c>, <c>log a_t = -8 r_t softplus(p)</c>,
/// <c>h_t = a_t h_(t-1) + sqrt(1 - a_t^2) (i_t * x_t)</c>, with block-diagonal W. At the first token of a sequence there is nothing to
/// keep, so a is 0 and the input enters in full: <c>h_0 = i_0 * x_0</c>.
/// </summary>
public static partial class RgLru
{
    /// <summary>
    /// Runs the unit over time. The products with the gate weights are computed in the dtype of <paramref name="x"/>, all else in float32
    /// (float64 where x is float64).
    /// </summary>
    /// <param name="x">Input [B, T, E].</param>
    /// <param name="inputGateWeight">W_i [H, w, w], H blocks of width w = E / H; a row of x multiplies from the left.</param>
    /// <param name="inputGateBias">b_i [H, w].</param>
    /// <param name="recurrentGateWeight">W_r [H, w, w].</param>
    /// <param name="recurrentGateBias">b_r [H, w].</param>
    /// <param name="recurrentParam">p [E]; the paper's Lambda is -p, so that a = sigmoid(Lambda)^(8 r).</param>
    /// <param name="initialState">State before the first step [B, E], or null for zeros.</param>
    /// <param name="firstTokens">Bool [B, T], true at the first token of a sequence, which forgets the state; null means none.</param>
    /// <param name="mask">Bool [B, T], false at padding, which leaves the state as it is; null means all true.</param>
    /// <param name="stateGradient">
    /// False where no gradient goes through the final state, as in mixers, whose states are constants: the fast kernel then keeps it out of
    /// the graph.
    /// </param>
    /// <returns>All states [B, T, E] in the dtype of <paramref name="x"/>, and the state after the last step [B, E].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static (Tensor Y, Tensor FinalState) Apply(
        Tensor x,
        Tensor inputGateWeight,
        Tensor inputGateBias,
        Tensor recurrentGateWeight,
        Tensor recurrentGateBias,
        Tensor recurrentParam,
        Tensor? initialState = null,
        Tensor? firstTokens = null,
        Tensor? mask = null,
        bool stateGradient = true)
    {
        Validate(x, inputGateWeight, inputGateBias, recurrentGateWeight, recurrentGateBias, recurrentParam, initialState, firstTokens, mask);
        using var scope = NewDisposeScope();
        ReadOnlySpan<(string, Tensor?)> tensors =
        [
            ("x", x), ("inputGateWeight", inputGateWeight), ("inputGateBias", inputGateBias), ("recurrentGateWeight", recurrentGateWeight),
            ("recurrentGateBias", recurrentGateBias), ("recurrentParam", recurrentParam), ("initialState", initialState), ("firstTokens", firstTokens),
            ("mask", mask),
        ];
        var (y, state) = OnCuda.For(tensors) is { } kernel
            ? Cuda(
                kernel, x, inputGateWeight, inputGateBias, recurrentGateWeight, recurrentGateBias, recurrentParam, initialState, firstTokens, mask,
                stateGradient)
            : Simd.CanRun(tensors)
            ? Cpu(
                x, inputGateWeight, inputGateBias, recurrentGateWeight, recurrentGateBias, recurrentParam, initialState, firstTokens, mask, stateGradient)
            : Reference(
                x, inputGateWeight, inputGateBias, recurrentGateWeight, recurrentGateBias, recurrentParam, initialState, firstTokens, mask);
        return (y.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    private static void Validate(
        Tensor x, Tensor inputGateWeight, Tensor inputGateBias, Tensor recurrentGateWeight, Tensor recurrentGateBias, Tensor recurrentParam,
        Tensor? initialState, Tensor? firstTokens, Tensor? mask)
    {
        var shape = x.shape;
        var weight = inputGateWeight.shape;
        if (shape.Length != 3 || shape.Any(size => size < 1))
        {
            throw Mismatch("x", "[B, T, E], all at least 1", shape);
        }

        var (batch, time, channels) = (shape[0], shape[1], shape[2]);
        if (weight.Length != 3 || weight[1] != weight[2] || weight[0] * weight[1] != channels)
        {
            throw Mismatch("inputGateWeight", $"[H, w, w] with H * w = {channels}", weight);
        }

        Require("inputGateBias", inputGateBias, weight[0], weight[1]);
        Require("recurrentGateWeight", recurrentGateWeight, weight);
        Require("recurrentGateBias", recurrentGateBias, weight[0], weight[1]);
        Require("recurrentParam", recurrentParam, channels);
        Require("initialState", initialState, batch, channels);
        Require("firstTokens", firstTokens, batch, time);
        Require("mask", mask, batch, time);
    }

    private static void Require(string name, Tensor? tensor, params long[] expected)
    {
        if (tensor is not null && !tensor.shape.AsSpan().SequenceEqual(expected))
        {
            throw Mismatch(name, $"[{string.Join(", ", expected)}]", tensor.shape);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"RgLru: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
