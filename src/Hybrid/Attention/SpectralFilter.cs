using System.Numerics;
using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>
/// A learned filter over time for each head, the same for its K channels, given at F0 frequencies from 0 to Nyquist:
/// <c>H(f) = exp(log_gain(f)) e^(i phase(f))</c>, both interpolated linearly between the frequencies. Zero parameters are the identity.
/// Linear filters learned in the frequency domain: GFNet (Rao et al., arXiv 2107.00645).
/// </summary>
/// <remarks>
/// Causal, the kernel is the first W lags of the inverse transform of the filter at length W, the same whatever the length T of the
/// sequence is, so that a prefix and the whole agree; the lags just below W stand for the negative lags of a circular filter.
/// With a cosine transform the kernel is symmetric in the lag and its half from lag 0 on is kept. Not causal, the filter is taken at the
/// frequencies of T and applied around the circle, or with a cosine transform to the sequence continued by its mirror image.
/// </remarks>
internal sealed class SpectralFilter : nn.Module
{
    // Up to this many tokens a matrix product over the lags is quicker than two transforms, and exact in its zeros.
    private const long LongestProduct = 64;

    private readonly long lags;
    private readonly bool useDct;
    private readonly bool isPinned;
    private readonly double binsToNyquist;

    [ComponentName(Name = "log_gain")]
    private readonly Parameter logGain;

    [ComponentName(Name = "phase")]
    private readonly Parameter? phase;

    [ComponentName(Name = "token_gate")]
    private readonly Linear? tokenGate;

    /// <param name="heads">Heads H of the filter.</param>
    /// <param name="headWidth">Width K of a head.</param>
    /// <param name="bins">Frequencies F0.</param>
    /// <param name="lags">Lags W of the causal kernel.</param>
    /// <param name="useDct">Real gains in a cosine transform.</param>
    /// <param name="useTokenGate">Scales each token's output by 1 + tanh(w v + b).</param>
    /// <param name="isPinned">
    /// The phase is 0, and no parameter, at frequency 0 and at Nyquist, where a real filter has none. False: the frequencies are those of a
    /// transform of length W, each with its phase.
    /// </param>
    public SpectralFilter(long heads, long headWidth, long bins, long lags, bool useDct, bool useTokenGate, bool isPinned = true)
        : base(nameof(SpectralFilter))
    {
        (this.lags, this.useDct, this.isPinned) = (lags, useDct, isPinned);
        binsToNyquist = isPinned ? bins - 1 : lags / 2.0;
        using var scope = NewDisposeScope();
        logGain = ModuleParameter.Own(zeros(heads, bins));
        phase = useDct ? null : ModuleParameter.Own(zeros(heads, isPinned ? bins - 2 : bins));
        if (useTokenGate)
        {
            tokenGate = Linear(headWidth, 1);
            init.zeros_(tokenGate.weight);
            init.zeros_(tokenGate.bias!);
        }

        RegisterComponents();
    }

    /// <summary>Gains and phases.</summary>
    public IEnumerable<Parameter> Curves => phase is null ? [logGain] : [logGain, phase];

    /// <summary>The causal kernel [H, W], lag 0 first.</summary>
    public Tensor Kernel()
    {
        using var scope = NewDisposeScope();
        return Impulse(useDct ? 2 * (lags - 1) : lags).narrow(-1, 0, lags).MoveToOuterDisposeScope();
    }

    /// <summary><c>y_t = sum_(l &lt; W) kernel_l v_(t - l)</c>, gated. Packed rows take a matrix [T, T] for each head.</summary>
    /// <param name="values">[B, T, H, K].</param>
    /// <param name="window">The W - 1 values before the first [B, W - 1, H K], oldest first; null at the start of a sequence.</param>
    /// <param name="sequenceIds">Packed rows: int64 [B, T], or null.</param>
    /// <returns>[B, T, H, K] in the dtype of the values.</returns>
    public Tensor Causal(Tensor values, Tensor? window, Tensor? sequenceIds)
    {
        using var scope = NewDisposeScope();
        var shape = values.shape;
        var precise = values.to_type(StatePrecision.Of(values.dtype));
        var extended = window is null
            ? precise
            : cat([window.view(shape[0], window.size(1), shape[2], shape[3]), precise], 1);
        var kernel = Kernel();
        var y = sequenceIds is not null || shape[1] <= LongestProduct
            ? Product(extended, kernel, shape[1], sequenceIds)
            : Transformed(extended, kernel, shape[1]);
        return Gated(y, values).MoveToOuterDisposeScope();
    }

    /// <summary>The window after a call.</summary>
    /// <param name="values">[B, T, H, K]; the real tokens of each row come first.</param>
    /// <param name="window">The window before the call [B, W - 1, H K].</param>
    /// <param name="lengths">Real tokens of each row, or null.</param>
    /// <returns>[B, W - 1, H K].</returns>
    public static Tensor NextWindow(Tensor values, Tensor window, IReadOnlyList<long>? lengths)
    {
        using var scope = NewDisposeScope();
        var shape = values.shape;
        var added = values.to_type(window.dtype).reshape(shape[0], shape[1], shape[2] * shape[3]);
        return CausalConv1d.LastInputs(cat([window, added], 1), window.size(1), shape[1], lengths).MoveToOuterDisposeScope();
    }

    /// <summary>The filter around the whole of each row, gated.</summary>
    /// <param name="values">[B, T, H, K].</param>
    /// <param name="lengths">Real tokens of each right-padded row, or null.</param>
    /// <returns>[B, T, H, K] in the dtype of the values; zero at padding.</returns>
    public Tensor Whole(Tensor values, IReadOnlyList<long>? lengths)
    {
        using var scope = NewDisposeScope();
        var precise = values.to_type(StatePrecision.Of(values.dtype));
        var y = lengths is null ? Circular(precise) : RowsByLength(precise, lengths);
        return Gated(y, values).MoveToOuterDisposeScope();
    }

    /// <summary>Rows of equal length together, as the filter has its frequencies from the length.</summary>
    private Tensor RowsByLength(Tensor values, IReadOnlyList<long> lengths)
    {
        var time = values.size(1);
        var groups = Enumerable.Range(0, lengths.Count).GroupBy(row => lengths[row]).ToArray();
        var filtered = groups.Select(group =>
        {
            var rows = values.index_select(0, Index(group)).narrow(1, 0, group.Key);
            var padding = zeros([rows.size(0), time - group.Key, rows.size(2), rows.size(3)], dtype: values.dtype, device: values.device);
            return cat([Circular(rows), padding], 1);
        }).ToList();
        var order = groups.SelectMany(group => group).Select((row, place) => (row, place)).OrderBy(entry => entry.row).Select(entry => entry.place);
        return cat(filtered, 0).index_select(0, Index(order));

        Tensor Index(IEnumerable<int> entries) =>
            tensor(entries.Select(entry => (long)entry).ToArray(), dtype: ScalarType.Int64).to(values.device);
    }

    private Tensor Circular(Tensor values)
    {
        var time = values.size(1);
        var (signal, length) = useDct ? (cat([values, values.flip(1)], 1), 2 * time) : (values, time);
        var response = Response(length).transpose(0, 1).unsqueeze(-1);                   // [F, H, 1]
        return fft.irfft(fft.rfft(signal, dim: 1) * response, n: length, dim: 1).narrow(1, 0, time);
    }

    /// <summary>The lags as a matrix [H, T, S] of the last T of S values, masked where rows are packed.</summary>
    private static Tensor Product(Tensor extended, Tensor kernel, long time, Tensor? sequenceIds)
    {
        var (span, lags) = (extended.size(1), kernel.size(1));
        var keys = arange(span, dtype: ScalarType.Int64, device: kernel.device);
        var lag = keys.narrow(0, span - time, time).unsqueeze(1) - keys;                 // [T, S]
        var inside = lag.ge(0).logical_and(lag.lt(lags)).to_type(kernel.dtype);
        var matrix = kernel.index_select(1, lag.clamp(0, lags - 1).flatten()).view(-1, time, span) * inside;
        if (sequenceIds is not null)
        {
            matrix = matrix * sequenceIds.unsqueeze(2).eq(sequenceIds.unsqueeze(1)).to_type(kernel.dtype).unsqueeze(1);
        }

        return matrix.matmul(extended.transpose(1, 2)).transpose(1, 2);
    }

    /// <summary>
    /// The linear convolution by way of a circular one, long enough that what wraps around falls on values before the last T, or on
    /// nothing: zeros past the end alone would let the future leak.
    /// </summary>
    private static Tensor Transformed(Tensor extended, Tensor kernel, long time)
    {
        var span = extended.size(1);
        var lags = Math.Min(kernel.size(1), span);
        var length = (long)BitOperations.RoundUpToPowerOf2((ulong)(time + lags - 1));
        length = Math.Max(length, (long)BitOperations.RoundUpToPowerOf2((ulong)span));
        var response = fft.rfft(kernel.narrow(1, 0, lags), n: length, dim: 1).transpose(0, 1).unsqueeze(-1);
        return fft.irfft(fft.rfft(extended, n: length, dim: 1) * response, n: length, dim: 1).narrow(1, span - time, time);
    }

    private Tensor Gated(Tensor y, Tensor values)
    {
        var filtered = y.to_type(values.dtype);
        return tokenGate is null ? filtered : filtered * (1 + tokenGate.call(values).tanh());
    }

    /// <summary>Impulse response [H, n] of the filter at length n.</summary>
    private Tensor Impulse(long length) => fft.irfft(Response(length), n: length, dim: -1);

    /// <summary>The filter, complex [H, n / 2 + 1], at the frequencies of a transform of length n.</summary>
    private Tensor Response(long length)
    {
        var type = StatePrecision.Of(logGain.dtype);
        var bins = logGain.size(1);
        var places = arange((length / 2) + 1, dtype: type, device: logGain.device) * (2 * binsToNyquist / length);
        places = places.clamp_max(bins - 1);
        var nearness = (arange(bins, dtype: type, device: logGain.device).unsqueeze(1) - places).abs().neg().add(1).clamp_min(0);
        var gain = logGain.to_type(type).matmul(nearness).exp();                         // [H, F]
        if (phase is null)
        {
            return stack([gain, zeros_like(gain)], -1).view_as_complex();
        }

        var inner = isPinned ? nearness.narrow(0, 1, bins - 2) : nearness;
        var angle = phase.to_type(type).matmul(inner);
        return stack([gain * angle.cos(), gain * angle.sin()], -1).view_as_complex();
    }
}
