using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The diagonal linear recurrence that gated recurrent layers share (HGRN, arXiv 2311.04823; Griffin, arXiv 2402.19427), with its decay
/// in log form: <c>h_t = exp(g_t) h_(t-1) + x_t</c>, every channel on its own.
/// </summary>
public static partial class LinearRecurrence
{
    /// <summary>Runs the recurrence over time. Arithmetic is float32 (float64 where <paramref name="x"/> is float64).</summary>
    /// <param name="x">Input [B, T, E].</param>
    /// <param name="logDecay">Logarithm g of the decay [B, T, E], at most 0; minus infinity forgets everything.</param>
    /// <param name="initialState">State before the first step [B, E], or null for zeros.</param>
    /// <param name="mask">Bool [B, T], false at padding, which leaves the state as it is; null means all true.</param>
    /// <param name="restart">Bool [B, T], true at the first token of a packed sequence, which starts from zero; null means none.</param>
    /// <param name="stateGradient">
    /// False where no gradient goes through the final state, as in mixers, whose states are constants: the fast kernel then keeps it out of
    /// the graph.
    /// </param>
    /// <returns>All states [B, T, E] in the dtype of <paramref name="x"/>, and the state after the last step [B, E].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static (Tensor Y, Tensor FinalState) Apply(
        Tensor x, Tensor logDecay, Tensor? initialState = null, Tensor? mask = null, Tensor? restart = null, bool stateGradient = true)
    {
        Validate(x, logDecay, initialState, mask, restart);
        using var scope = NewDisposeScope();
        ReadOnlySpan<(string, Tensor?)> tensors = [("x", x), ("logDecay", logDecay), ("initialState", initialState), ("mask", mask), ("restart", restart)];
        var (y, state) = OnCuda.For(tensors) is { } kernel ? Cuda(kernel, x, logDecay, initialState, mask, restart, stateGradient)
            : Simd.CanRun(tensors) ? Cpu(x, logDecay, initialState, mask, restart, stateGradient)
            : Reference(x, logDecay, initialState, mask, restart);
        return (y.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    private static void Validate(Tensor x, Tensor logDecay, Tensor? initialState, Tensor? mask, Tensor? restart)
    {
        var shape = x.shape;
        if (shape.Length != 3 || shape.Any(size => size < 1))
        {
            throw Mismatch("x", "[B, T, E], all at least 1", shape);
        }

        Require("logDecay", logDecay, shape);
        Require("initialState", initialState, shape[0], shape[2]);
        Require("mask", mask, shape[0], shape[1]);
        Require("restart", restart, shape[0], shape[1]);
    }

    private static void Require(string name, Tensor? tensor, params long[] expected)
    {
        if (tensor is not null && !tensor.shape.AsSpan().SequenceEqual(expected))
        {
            throw Mismatch(name, $"[{string.Join(", ", expected)}]", tensor.shape);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"LinearRecurrence: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
