using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// A causal exponential moving average behind a gate, every channel on its own: <c>a_t = sigmoid(d + l_t)</c>,
/// <c>h_t = a_t h_(t-1) + (1 - a_t) v_t</c>, <c>y_t = h_t sigmoid(g_t)</c>.
/// </summary>
public static partial class GatedAverage
{
    /// <summary>Runs the average over time. Arithmetic is float32 (float64 where <paramref name="valuesAndGates"/> is float64).</summary>
    /// <param name="valuesAndGates">The values v and behind them the raw gates g [B, T, 2E].</param>
    /// <param name="decay">The constant part d of the decay's logit [E].</param>
    /// <param name="logits">What each step adds to it, l [B, T, E]; null for a decay that is constant in time.</param>
    /// <param name="initialState">State before the first step [B, E], or null for zeros.</param>
    /// <param name="mask">Bool [B, T], false at padding, which leaves the state as it is; null means all true.</param>
    /// <param name="restart">Bool [B, T], true at the first token of a packed sequence, which starts from zero; null means none.</param>
    /// <param name="stateGradient">
    /// False where no gradient goes through the final state, as in mixers, whose states are constants: the fast kernel then keeps it out of
    /// the graph.
    /// </param>
    /// <returns>Output [B, T, E] in the dtype of <paramref name="valuesAndGates"/>, and the state after the last step [B, E].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static (Tensor Y, Tensor FinalState) Apply(
        Tensor valuesAndGates,
        Tensor decay,
        Tensor? logits = null,
        Tensor? initialState = null,
        Tensor? mask = null,
        Tensor? restart = null,
        bool stateGradient = true)
    {
        Validate(valuesAndGates, decay, logits, initialState, mask, restart);
        using var scope = NewDisposeScope();
        ReadOnlySpan<(string, Tensor?)> tensors =
        [
            ("valuesAndGates", valuesAndGates), ("decay", decay), ("logits", logits), ("initialState", initialState), ("mask", mask), ("restart", restart),
        ];
        var (y, state) = OnCuda.For(tensors) is { } kernel ? Cuda(kernel, valuesAndGates, decay, logits, initialState, mask, restart, stateGradient)
            : Simd.CanRun(tensors) ? Cpu(valuesAndGates, decay, logits, initialState, mask, restart, stateGradient)
            : Reference(valuesAndGates, decay, logits, initialState, mask, restart);
        return (y.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    private static void Validate(Tensor valuesAndGates, Tensor decay, Tensor? logits, Tensor? initialState, Tensor? mask, Tensor? restart)
    {
        var shape = valuesAndGates.shape;
        if (shape.Length != 3 || shape.Any(size => size < 1) || shape[2] % 2 != 0)
        {
            throw Mismatch("valuesAndGates", "[B, T, 2E], all at least 1", shape);
        }

        var (batch, time, channels) = (shape[0], shape[1], shape[2] / 2);
        Require("decay", decay, channels);
        Require("logits", logits, batch, time, channels);
        Require("initialState", initialState, batch, channels);
        Require("mask", mask, batch, time);
        Require("restart", restart, batch, time);
    }

    private static void Require(string name, Tensor? tensor, params long[] expected)
    {
        if (tensor is not null && !tensor.shape.AsSpan().SequenceEqual(expected))
        {
            throw Mismatch(name, $"[{string.Join(", ", expected)}]", tensor.shape);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"GatedAverage: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
