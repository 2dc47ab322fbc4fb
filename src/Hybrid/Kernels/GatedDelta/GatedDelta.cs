using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The gated delta rule (Yang, Kautz and Hatamizadeh, arXiv 2412.06464): a matrix S that maps keys to values, K x V a head. At each
/// step it decays, reads what it holds for the key, and moves that towards the value:
/// <c>S' = exp(g_t) S_(t-1)</c>, <c>S_t = S' + k_t beta_t (v_t - S'^T k_t)^T</c>, <c>o_t = scale S_t^T q_t</c>.
/// Without a decay, g = 0, it is the delta rule (Yang et al., arXiv 2406.06484).
/// </summary>
public static partial class GatedDelta
{
    /// <summary>Added to the sum of squares where keys are normalised.</summary>
    internal const double NormEpsilon = 1e-6;

    /// <summary>Runs the rule over time. Arithmetic is float32 (float64 where <paramref name="q"/> is float64).</summary>
    /// <param name="q">Queries [B, T, H, K].</param>
    /// <param name="k">Keys [B, T, H, K]; the rule is stable where beta |k|^2 is at most 2.</param>
    /// <param name="v">Values [B, T, H, V].</param>
    /// <param name="beta">Share of the old value that a step replaces [B, T, H], usually 0..1.</param>
    /// <param name="g">Log decays [B, T, H], at most 0; null means no decay.</param>
    /// <param name="scale">Factor of the queries; null means 1 / sqrt(K).</param>
    /// <param name="normalise">True to divide q and k by <c>sqrt(sum x^2 + 1e-6)</c> over K first.</param>
    /// <param name="initialState">S before the first step [B, H, K, V]; null for zeros.</param>
    /// <param name="mask">Bool [B, T], false at padding, which leaves the state as it is; null means all true.</param>
    /// <param name="restart">Bool [B, T], true at the first token of a packed sequence, which starts from zero; null means none.</param>
    /// <param name="stateGradient">
    /// False where no gradient goes through the final state, as in mixers, whose states are constants: the fast kernel then keeps it out of the graph.
    /// </param>
    /// <returns>Output [B, T, H, V] in the dtype of <paramref name="q"/>, and S after the last step [B, H, K, V].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static (Tensor O, Tensor FinalState) Apply(
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor beta,
        Tensor? g = null,
        double? scale = null,
        bool normalise = false,
        Tensor? initialState = null,
        Tensor? mask = null,
        Tensor? restart = null,
        bool stateGradient = true)
    {
        var keyWidth = Validate(q, k, v, beta, g, initialState, mask, restart);
        using var scope = NewDisposeScope();
        var factor = scale ?? Math.Pow(keyWidth, -0.5);
        var device = DeviceFor(
            keyWidth, ("q", q), ("k", k), ("v", v), ("beta", beta), ("g", g), ("initialState", initialState), ("mask", mask), ("restart", restart));
        var (o, state) = device is null
            ? Reference(q, k, v, beta, g, factor, normalise, initialState, mask, restart)
            : Fused(device, q, k, v, beta, g, factor, normalise, initialState, mask, restart, stateGradient);
        return (o.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    /// <summary>Where the rule runs in kernels of its own; null, with a line in the log, where none can run on the tensors of a call.</summary>
    private static IDeltaDevice? DeviceFor(long keyWidth, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        IDeltaDevice? onCuda = OnCuda.For(DeltaOnCuda.TooWide("K", keyWidth), tensors);
        return onCuda ?? (Simd.CanRun(tensors) ? DeltaOnCpu.Instance : null);
    }

    private static long Validate(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g, Tensor? initialState, Tensor? mask, Tensor? restart)
    {
        var shape = q.shape;
        if (shape.Length != 4 || shape.Any(size => size < 1))
        {
            throw Mismatch("q", "[B, T, H, K], all at least 1", shape);
        }

        var (batch, time, heads, keyWidth) = (shape[0], shape[1], shape[2], shape[3]);
        Require("k", k, batch, time, heads, keyWidth);
        var values = v.shape;
        if (values.Length != 4 || values[0] != batch || values[1] != time || values[2] != heads || values[3] < 1)
        {
            throw Mismatch("v", $"[{batch}, {time}, {heads}, V]", values);
        }

        Require("beta", beta, batch, time, heads);
        Require("g", g, batch, time, heads);
        Require("initialState", initialState, batch, heads, keyWidth, values[3]);
        Require("mask", mask, batch, time);
        Require("restart", restart, batch, time);
        return keyWidth;
    }

    private static void Require(string name, Tensor? tensor, params long[] expected)
    {
        if (tensor is not null && !tensor.shape.AsSpan().SequenceEqual(expected))
        {
            throw Mismatch(name, $"[{string.Join(", ", expected)}]", tensor.shape);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"GatedDelta: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
