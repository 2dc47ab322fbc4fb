using Hybrid.Attention;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

/// <summary>The filter of spectral heads against transforms and convolutions written as sums.</summary>
public class MixedHeadSpectralTests
{
    private const int Heads = 2;
    private const int HeadWidth = 3;

    // Float32 sums and transforms of a few hundred terms against double arithmetic.
    private const double Tolerance = 1e-5;

    [Theory]
    [InlineData(false, 8)]
    [InlineData(false, 9)]
    [InlineData(true, 8)]
    [InlineData(true, 9)]
    public void ZeroParametersAreTheIdentity(bool useDct, long lags)
    {
        using var filter = Filter(useDct, lags, isRandom: false);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var delta = zeros(Heads, lags);
        delta.narrow(1, 0, 1).fill_(1);
        TensorAssert.Close(delta, filter.Kernel(), 1e-6, "kernel");
        foreach (var time in new long[] { 1, 2, 7, 65, 100 })
        {
            var values = Input(time);
            TensorAssert.Close(values, filter.Causal(values, null, null), Tolerance, $"causal, {time} tokens");
            TensorAssert.Close(values, filter.Whole(values, null), Tolerance, $"whole, {time} tokens");
        }
    }

    [Theory]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(40)]
    public void TheKernelIsTheInverseTransformOfTheInterpolatedFilter(int lags)
    {
        using var filter = Filter(useDct: false, lags);
        var (gain, phase) = Curves(filter);
        for (var head = 0; head < Heads; head++)
        {
            var expected = Enumerable.Range(0, lags).Select(lag => Inverse(lag, lags, place => At(gain[head], place), place => At(phase[head], place)));
            Compare(expected, filter.Kernel(), head, lags);
        }
    }

    [Fact]
    public void TheKernelOfACosineFilterHasNoPhase()
    {
        const int lags = 11;
        using var filter = Filter(useDct: true, lags);
        var (gain, _) = Curves(filter);
        for (var head = 0; head < Heads; head++)
        {
            var expected = Enumerable.Range(0, lags).Select(lag => Inverse(lag, 2 * (lags - 1), place => At(gain[head], place), _ => 0));
            Compare(expected, filter.Kernel(), head, lags);
        }
    }

    [Fact]
    public void TheEndsOfTheSpectrumArePinned()
    {
        using var filter = Filter(useDct: false, lags: 16);
        using var scope = NewDisposeScope();
        var (gain, _) = Curves(filter);
        var kernel = Values.Of(filter.Kernel());
        for (var head = 0; head < Heads; head++)
        {
            var taps = kernel[(head * 16)..((head + 1) * 16)];
            Assert.Equal(Math.Exp(gain[head][0]), taps.Sum(), 5);
            Assert.Equal(Math.Exp(gain[head][^1]), taps.Select((tap, lag) => lag % 2 == 0 ? tap : -tap).Sum(), 5);
        }
    }

    [Theory]
    [InlineData(5, 9)]
    [InlineData(64, 9)]
    [InlineData(65, 9)]
    [InlineData(130, 9)]
    [InlineData(130, 200)]
    [InlineData(70, 70)]
    public void CausalIsTheConvolutionWithTheKernel(int time, int lags)
    {
        using var filter = Filter(useDct: false, lags);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var values = Input(time);
        var expected = Convolved(values, filter.Kernel());
        TensorAssert.Close(expected, filter.Causal(values, null, null), Tolerance, "from the start");

        // From any state, by the transforms and by the product.
        foreach (var prefix in new long[] { 1, 4, time / 2, time - 1 })
        {
            var window = zeros(2, lags - 1, Heads * HeadWidth);
            window = SpectralFilter.NextWindow(values.narrow(1, 0, prefix), window, null);
            var continued = filter.Causal(values.narrow(1, prefix, time - prefix), window, null);
            TensorAssert.Close(expected.narrow(1, prefix, time - prefix), continued, Tolerance, $"after {prefix} tokens");
        }
    }

    [Theory]
    [InlineData(65, 128)]
    [InlineData(100, 17)]
    public void TheTransformsDoNotLeakTheFuture(int time, int lags)
    {
        using var filter = Filter(useDct: false, lags);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var values = Input(time);
        var changed = values.clone();
        changed.narrow(1, time - 1, 1).add_(100);
        var before = filter.Causal(values, null, null).narrow(1, 0, time - 1);
        var after = filter.Causal(changed, null, null).narrow(1, 0, time - 1);

        // A hundred times the rounding of a transform; a circular convolution would leak the whole of it.
        TensorAssert.Close(before, after, 100 * 1e-6, "the last token raised by 100");
    }

    [Theory]
    [InlineData(12)]
    [InlineData(13)]
    public void WholeIsTheCircularConvolution(int time)
    {
        using var filter = Filter(useDct: false, lags: 4);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (gain, phase) = Curves(filter);
        var values = Input(time);
        var elements = Values.Of(values);
        var expected = new double[elements.Length];
        ForEach(time, (row, t, head, channel) =>
        {
            for (var s = 0; s < time; s++)
            {
                var tap = Inverse(t - s, time, place => At(gain[head], place), place => At(phase[head], place));
                expected[Place(row, t, head, channel, time)] += tap * elements[Place(row, s, head, channel, time)];
            }
        });
        TensorAssert.Close(Values.Tensor32(expected, values.shape), filter.Whole(values, null), Tolerance, $"{time} tokens");
    }

    [Fact]
    public void WholeWithGainsAloneFiltersTheCosineTransform()
    {
        const int time = 10;
        using var filter = Filter(useDct: true, lags: 4);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (gain, _) = Curves(filter);
        var values = Input(time);
        var elements = Values.Of(values);
        var expected = new double[elements.Length];
        ForEach(time, (row, t, head, channel) =>
        {
            for (var k = 0; k < time; k++)
            {
                var coefficient = Enumerable.Range(0, time).Sum(s => Basis(k, s) * elements[Place(row, s, head, channel, time)]);
                expected[Place(row, t, head, channel, time)] += Math.Exp(At(gain[head], (double)k / time)) * coefficient * Basis(k, t);
            }
        });
        TensorAssert.Close(Values.Tensor32(expected, values.shape), filter.Whole(values, null), Tolerance, "cosine transform");

        static double Basis(int k, int t) => Math.Sqrt((k == 0 ? 1.0 : 2.0) / time) * Math.Cos(Math.PI * (t + 0.5) * k / time);
    }

    [Fact]
    public void WholeFiltersPaddedRowsAsIfAlone()
    {
        using var filter = Filter(useDct: false, lags: 4);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var values = Input(9, batch: 4);
        var y = filter.Whole(values, [9, 4, 7, 4]);
        foreach (var (row, length) in new[] { (0, 9L), (1, 4L), (2, 7L), (3, 4L) })
        {
            var alone = filter.Whole(values.narrow(0, row, 1).narrow(1, 0, length), null);
            TensorAssert.Close(alone, y.narrow(0, row, 1).narrow(1, 0, length), Tolerance, $"row {row}");
        }
    }

    private static SpectralFilter Filter(bool useDct, long lags, bool isRandom = true)
    {
        var filter = new SpectralFilter(Heads, HeadWidth, bins: 6, lags, useDct, useTokenGate: false);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var (curve, seed) in filter.Curves.Select((curve, i) => (curve, (ulong)i + 3)))
        {
            curve.copy_(isRandom ? Values.Normal(seed, curve.shape) : zeros_like(curve));
        }

        return filter;
    }

    private static Tensor Input(long time, long batch = 2) => Values.Normal(17, batch, time, Heads, HeadWidth);

    /// <summary>Log gains and phases of each head at the six frequencies.</summary>
    private static (double[][] Gain, double[][] Phase) Curves(SpectralFilter filter)
    {
        var curves = filter.Curves.Select(curve => Values.Of(curve)).ToArray();
        var gain = Enumerable.Range(0, Heads).Select(head => curves[0][(head * 6)..((head + 1) * 6)]).ToArray();
        var phase = curves.Length == 1 ? [] : Enumerable.Range(0, Heads).Select(head => (double[])[0, .. curves[1][(head * 4)..((head + 1) * 4)], 0]).ToArray();
        return (gain, phase);
    }

    /// <summary>A curve at a place from 0 to 1 of its frequencies.</summary>
    private static double At(double[] curve, double place)
    {
        var exact = place * (curve.Length - 1);
        var below = Math.Min((int)exact, curve.Length - 2);
        return curve[below] + ((exact - below) * (curve[below + 1] - curve[below]));
    }

    /// <summary>One element of the inverse transform of length n: the sum over the frequencies and their mirror images.</summary>
    private static double Inverse(int lag, int n, Func<double, double> gain, Func<double, double> phase) =>
        Enumerable.Range(0, n).Sum(k =>
        {
            var mirrored = k > n / 2;
            var place = 2.0 * (mirrored ? n - k : k) / n;
            return Math.Exp(gain(place)) * Math.Cos((2 * Math.PI * k * lag / n) + (mirrored ? -phase(place) : phase(place)));
        }) / n;

    private static Tensor Convolved(Tensor values, Tensor kernel)
    {
        var (time, lags) = ((int)values.size(1), (int)kernel.size(1));
        var (elements, taps) = (Values.Of(values), Values.Of(kernel));
        var result = new double[elements.Length];
        ForEach(time, (row, t, head, channel) =>
        {
            for (var lag = 0; lag <= Math.Min(t, lags - 1); lag++)
            {
                result[Place(row, t, head, channel, time)] += taps[(head * lags) + lag] * elements[Place(row, t - lag, head, channel, time)];
            }
        });
        return Values.Tensor32(result, values.shape);
    }

    private static void ForEach(int time, Action<int, int, int, int> action)
    {
        for (var i = 0; i < 2 * time * Heads * HeadWidth; i++)
        {
            action(i / (time * Heads * HeadWidth), i / (Heads * HeadWidth) % time, i / HeadWidth % Heads, i % HeadWidth);
        }
    }

    private static int Place(int row, int t, int head, int channel, int time) => (((((row * time) + t) * Heads) + head) * HeadWidth) + channel;

    private static void Compare(IEnumerable<double> expected, Tensor kernel, int head, int lags)
    {
        using var scope = NewDisposeScope();
        TensorAssert.Close(Values.Tensor32([.. expected], lags), kernel[head], Tolerance, $"head {head}");
    }
}
