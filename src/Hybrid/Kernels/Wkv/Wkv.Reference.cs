using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class Wkv
{
    // The log weight of a token that is none. Lower than NoMaximum, so that it weighs nothing even before the first token.
    private const double NoKey = -2e38;

    private const double Epsilon = 1e-6;

    /// <summary>
    /// Both forms from plain tensor operations, on any device, differentiable by autograd. First the running maximum
    /// <c>m_t = max(m_(t-1) + log d_t, k_t)</c>; relative to it the sums are a linear recurrence,
    /// <c>n_t = e^(m_(t-1) - m_t + log d_t) n_(t-1) + e^(k_t - m_t) v_t</c>. Both run over about sqrt(T) chunks of about sqrt(T) steps:
    /// all chunks side by side from nothing, then what passes from chunk to chunk. Work is O(T), depth O(sqrt T).
    /// </summary>
    /// <remarks>
    /// The maximum is a constant to autograd: it scales numerator and denominator alike, so its own gradient would cancel. Exponents
    /// subtract the maxima first. Where an old token holds the maximum, that difference is exact and e^(..) makes up for the rounding
    /// of the maximum itself, so that huge keys cost no precision.
    /// </remarks>
    internal static (Tensor Y, WkvState FinalState) Reference(
        WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, Tensor? receptance, WkvState? initialState, Tensor? mask, Tensor? restart)
    {
        var dtype = key.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        return Reference(
            form == WkvForm.DataDependent, LogDecay(form, decay.to_type(dtype)), bonus, key, value, receptance, initialState, mask, restart);
    }

    /// <summary>The same from log d, [B, T, E] or [E].</summary>
    private static (Tensor Y, WkvState FinalState) Reference(
        bool dataDependent, Tensor logDecay, Tensor bonus, Tensor key, Tensor value, Tensor? receptance, WkvState? initialState, Tensor? mask,
        Tensor? restart)
    {
        var dtype = key.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var shape = key.shape;
        var (batch, time, channels) = (shape[0], shape[1], shape[2]);
        var padding = mask?.logical_not().unsqueeze(-1);
        var starts = restart?.unsqueeze(-1);

        var logWeight = key.to_type(dtype);
        var current = Split(logWeight, 0);                                               // [B, C, L, E], as all that follows
        var values = Split(value.to_type(dtype), 0);
        var steps = Split(Fill(Fill(logDecay.expand(shape), padding, 0), starts, double.NegativeInfinity), 0);
        var keys = Split(Fill(logWeight, padding, NoKey), NoKey);

        var (sums, maximum) = InitialState(initialState?.Numerator, initialState?.Denominator, initialState?.Maximum, key, dtype);
        var (before, after, finalMaximum) = RunningMaximum(steps.detach(), keys.detach(), maximum);
        var keep = (before - after + steps).exp();
        var weights = (keys - after).exp();
        var driven = stack([weights * values, weights], 3);                              // [B, C, L, 2, E]
        var (previous, finalSums) = RunningSums(keep.unsqueeze(3), driven, sums);

        var passed = dataDependent ? steps : Split(Fill(zeros_like(logWeight), starts, double.NegativeInfinity), 0);
        var y = WeightedMean(previous, before, passed, current, bonus.to_type(dtype), values, dataDependent ? Epsilon : 0);
        var final = finalSums.unbind(1);
        y = y.reshape(batch, -1, channels).narrow(1, 0, time);
        y = receptance is null ? y : y * receptance.to_type(dtype).sigmoid();
        return (y.to_type(key.dtype), new(final[0], final[1], finalMaximum));
    }

    private static Tensor LogDecay(WkvForm form, Tensor decay) => form == WkvForm.Rwkv4 ? decay.exp().neg() : decay.softplus().neg();

    private static Tensor Fill(Tensor x, Tensor? where, double value) => where is null ? x : x.masked_fill(where, value);

    /// <summary>[B, T, E] in chunks, [B, C, L, E]; the end is padded with <paramref name="filler"/>.</summary>
    private static Tensor Split(Tensor x, double filler)
    {
        var shape = x.shape;
        var length = Math.Max(1, (long)Math.Ceiling(Math.Sqrt(shape[1])));
        var count = (shape[1] + length - 1) / length;
        var missing = (length * count) - shape[1];
        if (missing > 0)
        {
            x = cat([x, full([shape[0], missing, shape[2]], filler, dtype: x.dtype, device: x.device)], 1);
        }

        return x.reshape(shape[0], count, length, shape[2]);
    }

    /// <summary>The sums [B, 2, E] relative to the maximum [B, E]; gradients of a given maximum go into the sums.</summary>
    private static (Tensor Sums, Tensor Maximum) InitialState(
        Tensor? numerator, Tensor? denominator, Tensor? maximum, Tensor key, ScalarType dtype)
    {
        if (numerator is null || denominator is null || maximum is null)
        {
            var (batch, channels) = (key.size(0), key.size(2));
            return (
                zeros([batch, 2, channels], dtype: dtype, device: key.device),
                full([batch, channels], NoMaximum, dtype: dtype, device: key.device));
        }

        var sums = stack([numerator.to_type(dtype), denominator.to_type(dtype)], 1);
        var given = maximum.to_type(dtype);
        var constant = given.detach();
        return (given.requires_grad ? sums * (given - constant).exp().unsqueeze(1) : sums, constant);
    }

    /// <summary>The maximum before and after each step [B, C, L, E], and after the last [B, E].</summary>
    private static (Tensor Before, Tensor After, Tensor Final) RunningMaximum(Tensor logDecay, Tensor keys, Tensor initial)
    {
        using var guard = no_grad();
        var decays = logDecay.unbind(2);                                                 // L x [B, C, E]
        var local = keys.unbind(2);
        for (var i = 1; i < local.Length; i++)
        {
            local[i] = maximum(local[i - 1] + decays[i], local[i]);
            decays[i] = decays[i - 1] + decays[i];
        }

        var locals = local[^1].unbind(1);                                                // C x [B, E]
        var passed = decays[^1].unbind(1);
        var entering = new Tensor[locals.Length];
        for (var i = 0; i < locals.Length; i++)
        {
            entering[i] = initial;
            initial = maximum(locals[i], passed[i] + initial);
        }

        var start = stack(entering, 1).unsqueeze(2);                                     // [B, C, 1, E]
        var after = maximum(stack(local, 2), stack(decays, 2) + start);
        return (cat([start, after.narrow(2, 0, local.Length - 1)], 2), after, initial);
    }

    /// <summary>s_t = keep_t s_(t-1) + driven_t: the sums before each step [B, C, L, 2, E], and after the last [B, 2, E].</summary>
    private static (Tensor Before, Tensor Final) RunningSums(Tensor keep, Tensor driven, Tensor state)
    {
        // unbind, not indexing: the gradient of a slice is a tensor of the full size, that of unbind is one stack.
        var passed = keep.unbind(2);                                                     // L x [B, C, 1, E]
        var local = driven.unbind(2);                                                    // L x [B, C, 2, E]
        for (var i = 1; i < local.Length; i++)
        {
            local[i] = local[i].addcmul(passed[i], local[i - 1], 1);
            passed[i] = passed[i - 1] * passed[i];
        }

        var locals = local[^1].unbind(1);
        var decays = passed[^1].unbind(1);
        var entering = new Tensor[locals.Length];
        for (var i = 0; i < locals.Length; i++)
        {
            entering[i] = state;
            state = locals[i].addcmul(decays[i], state, 1);
        }

        var start = stack(entering, 1).unsqueeze(2);                                     // [B, C, 1, 2, E]
        return local.Length == 1
            ? (start, state)
            : (cat([start, stack(local[..^1], 2).addcmul(stack(passed[..^1], 2), start, 1)], 2), state);
    }

    /// <summary>
    /// The mean of the sums so far and the current token [B, C, L, E], relative to the larger weight of the two. A small constant in
    /// the denominator is one more weight, that of a zero.
    /// </summary>
    private static Tensor WeightedMean(
        Tensor sums, Tensor maximum, Tensor passed, Tensor keys, Tensor bonus, Tensor values, double epsilon)
    {
        var top = torch.maximum(maximum + passed, keys + bonus).detach();
        if (epsilon > 0)
        {
            top = top.clamp_min(Math.Log(epsilon));
        }

        var past = (maximum - top + passed).exp();
        var now = (keys - top + bonus).exp();
        var parts = sums.unbind(3);
        var denominator = now.addcmul(past, parts[1], 1);
        if (epsilon > 0)
        {
            denominator = denominator + (Math.Log(epsilon) - top).exp();
        }

        return (now * values).addcmul(past, parts[0], 1) / denominator;
    }
}
