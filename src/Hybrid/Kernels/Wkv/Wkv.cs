using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>How the weighted mean of RWKV forgets, and what the current token counts.</summary>
public enum WkvForm
{
    /// <summary>
    /// A decay for each token and channel, <c>d_t = exp(-softplus(w_t))</c>. The current token counts <c>e^u</c> times, older ones are
    /// decayed once more than in RWKV-4, and 1e-6 is added to the sum of weights.
    /// </summary>
    DataDependent,

    /// <summary>RWKV-4: a constant decay a channel, <c>d = exp(-exp(w))</c>; the newest older token is not decayed.</summary>
    Rwkv4,
}

/// <summary>
/// The sums that continue a <see cref="Wkv"/>: <c>N = Numerator e^Maximum</c> and <c>M = Denominator e^Maximum</c>. Gradients of a
/// result go through numerator and denominator, as those of N and M at a constant maximum.
/// </summary>
/// <param name="Numerator">[B, E].</param>
/// <param name="Denominator">[B, E].</param>
/// <param name="Maximum">[B, E]: the largest log weight so far, decayed.</param>
public readonly record struct WkvState(Tensor Numerator, Tensor Denominator, Tensor Maximum);

/// <summary>
/// The attention-free mean over time of RWKV (Peng et al., arXiv 2305.13048, section 3.1): <c>N_t = d_t N_(t-1) + e^(k_t) v_t</c>,
/// <c>M_t = d_t M_(t-1) + e^(k_t)</c>, and with a bonus u for the current token
/// <list type="bullet">
/// <item><c>y_t = (N_(t-1) + e^(u + k_t) v_t) / (M_(t-1) + e^(u + k_t))</c> in the form of RWKV-4,</item>
/// <item><c>y_t = (N_t + (e^u - 1) e^(k_t) v_t) / (M_t + (e^u - 1) e^(k_t) + 1e-6)</c> in the data-dependent form.</item>
/// </list>
/// All weights are kept relative to their running maximum, so that no key can overflow.
/// </summary>
public static partial class Wkv
{
    /// <summary>The maximum of a state that has seen no token: so low that such a state weighs nothing.</summary>
    public const double NoMaximum = -1e38;

    /// <summary>Runs over time. Arithmetic is float32 (float64 where <paramref name="key"/> is float64).</summary>
    /// <param name="form">Which of the two forms.</param>
    /// <param name="decay">The raw decay w: [B, T, E] in the data-dependent form, [E] in that of RWKV-4.</param>
    /// <param name="bonus">The bonus u of the current token [E].</param>
    /// <param name="key">Log weights k [B, T, E].</param>
    /// <param name="value">Values v [B, T, E].</param>
    /// <param name="initialState">The sums before the first step; null for none.</param>
    /// <param name="mask">Bool [B, T], false at padding, which leaves the state as it is; null means all true.</param>
    /// <param name="restart">Bool [B, T], true at the first token of a packed sequence, which starts from nothing; null means none.</param>
    /// <param name="receptance">Raw receptance r [B, T, E], which makes the output <c>sigmoid(r_t) y_t</c>; null means none.</param>
    /// <param name="stateGradient">
    /// False where no gradient goes through the final state, as in mixers, whose states are constants: the fast kernel then keeps it out of
    /// the graph.
    /// </param>
    /// <returns>Output [B, T, E] in the dtype of <paramref name="key"/>, and the state after the last step.</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static (Tensor Y, WkvState FinalState) Apply(
        WkvForm form,
        Tensor decay,
        Tensor bonus,
        Tensor key,
        Tensor value,
        WkvState? initialState = null,
        Tensor? mask = null,
        Tensor? restart = null,
        Tensor? receptance = null,
        bool stateGradient = true)
    {
        Validate(form, decay, bonus, key, value, initialState, mask, restart, receptance);
        using var scope = NewDisposeScope();
        ReadOnlySpan<(string, Tensor?)> tensors =
        [
            ("key", key), ("decay", decay), ("bonus", bonus), ("value", value), ("receptance", receptance), ("mask", mask), ("restart", restart),
            ("initialState.Numerator", initialState?.Numerator), ("initialState.Denominator", initialState?.Denominator),
            ("initialState.Maximum", initialState?.Maximum),
        ];
        var (y, state) = OnCuda.For(tensors) is { } kernel
            ? Cuda(kernel, form, decay, bonus, key, value, receptance, initialState, mask, restart, stateGradient)
            : Simd.CanRun(tensors) ? Cpu(form, decay, bonus, key, value, receptance, initialState, mask, restart, stateGradient)
            : Reference(form, decay, bonus, key, value, receptance, initialState, mask, restart);
        return (
            y.MoveToOuterDisposeScope(),
            new(
                state.Numerator.MoveToOuterDisposeScope(),
                state.Denominator.MoveToOuterDisposeScope(),
                state.Maximum.MoveToOuterDisposeScope()));
    }

    private static void Validate(
        WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, WkvState? initialState, Tensor? mask, Tensor? restart,
        Tensor? receptance)
    {
        var shape = key.shape;
        if (shape.Length != 3 || shape.Any(size => size < 1))
        {
            throw Mismatch("key", "[B, T, E], all at least 1", shape);
        }

        var (batch, time, channels) = (shape[0], shape[1], shape[2]);
        Require("decay", decay, form == WkvForm.Rwkv4 ? [channels] : shape);
        Require("bonus", bonus, channels);
        Require("value", value, shape);
        Require("mask", mask, batch, time);
        Require("restart", restart, batch, time);
        Require("receptance", receptance, shape);
        if (initialState is { } state)
        {
            Require("initialState.Numerator", state.Numerator, batch, channels);
            Require("initialState.Denominator", state.Denominator, batch, channels);
            Require("initialState.Maximum", state.Maximum, batch, channels);
        }
    }

    private static void Require(string name, Tensor? tensor, params long[] expected)
    {
        if (tensor is not null && !tensor.shape.AsSpan().SequenceEqual(expected))
        {
            throw Mismatch(name, $"[{string.Join(", ", expected)}]", tensor.shape);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"Wkv: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
