using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// The convolution with neighbouring channels in the lanes of a register. Forward, a task is a stretch of time with all channels; backward,
/// where taps and bias sum over time, it is a group of channels over all of time.
/// </summary>
internal static unsafe class ConvKernel<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>y of some steps of a row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Forward(in ConvInputs p, RowView y, int row, int start, int count)
    {
        var sources = stackalloc float*[p.Width];
        for (var t = start; t < start + count; t++)
        {
            p.Sources(row, t, sources);
            var target = y.At(row, t);
            for (var channel = 0; channel < p.Channels; channel += TLane.Count)
            {
                var width = p.Channels - channel;
                var sum = Sum(p, sources, channel, width);
                LaneMemory.Store(p.Silu ? sum * LaneMath.Sigmoid(sum) : sum, target + channel, width);
            }
        }
    }

    /// <summary>
    /// All gradients of a group of channels. With dp_t the gradient before the activation: d tap_k += dp_t x_(t-(W-1)+k), and once dp_t is
    /// there, x_(t-(W-1)), of which the outputs up to t are made, gets all it gets: sum_k tap_k dp_(t-k).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Backward(in ConvInputs p, in ConvGradients g, int row, int first, int last)
    {
        var lanes = TLane.Count;
        var stride = (last - first + lanes - 1) / lanes * lanes;
        using var scratch = new Scratch(((2 * p.Width) + 1) * stride);
        var recent = scratch.Take(p.Width * stride);                     // dp of the last W steps, at t mod W
        var taps = scratch.Take(p.Width * stride);
        var bias = scratch.Take(stride);
        LaneMemory.Clear(taps, (p.Width + 1) * stride);
        float** sources = stackalloc float*[p.Width], gradients = stackalloc float*[p.Width];

        for (var t = 0; t < p.Time + p.Width - 1; t++)
        {
            if (t < p.Time)
            {
                p.Sources(row, t, sources);
                BeforeActivation(p, g.Y.At(row, t), sources, recent + (t % p.Width * stride), taps, bias, stride, first, last);
            }

            var input = t - (p.Width - 1);
            var target = input >= 0 ? g.X.At(row, input) : g.History.Exists ? g.History.At(row, t) : null;
            for (var k = 0; k < p.Width; k++)
            {
                gradients[k] = p.Reaches(row, t - k, input) ? recent + ((t - k) % p.Width * stride) : null;
            }

            for (var channel = first; target != null && channel < last; channel += lanes)
            {
                var sum = TLane.Zero;
                for (var k = 0; k < p.Width; k++)
                {
                    if (gradients[k] != null)
                    {
                        var tap = LaneMemory.Load<TLane>(p.Taps + ((long)k * p.Channels) + channel, last - channel);
                        sum = TLane.MultiplyAdd(TLane.Load(gradients[k] + channel - first), tap, sum);
                    }
                }

                LaneMemory.Store(sum, target + channel, last - channel);
            }
        }

        // Sums of the taps and, behind them, of the bias.
        for (var k = 0; k <= p.Width; k++)
        {
            LaneMemory.Copy(taps + (k * stride), g.Taps + ((((long)row * (p.Width + 1)) + k) * p.Channels) + first, last - first);
        }
    }

    /// <summary>The gradient before the activation of one step, and what it adds to those of taps and bias.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void BeforeActivation(
        in ConvInputs p, float* gradY, float** sources, float* recent, float* taps, float* bias, int stride, int first, int last)
    {
        for (var channel = first; channel < last; channel += TLane.Count)
        {
            var (at, width) = (channel - first, last - channel);
            var gradient = LaneMemory.Load<TLane>(gradY + channel, width);
            if (p.Silu)
            {
                gradient *= LaneMath.SiluSlope(Sum(p, sources, channel, width));
            }

            TLane.Store(gradient, recent + at);
            TLane.Store(TLane.Load(bias + at) + gradient, bias + at);
            for (var k = 0; k < p.Width; k++)
            {
                if (sources[k] != null)
                {
                    var sum = taps + (k * stride) + at;
                    TLane.Store(TLane.MultiplyAdd(gradient, LaneMemory.Load<TLane>(sources[k] + channel, width), TLane.Load(sum)), sum);
                }
            }
        }
    }

    /// <summary>bias + sum_k tap_k x_(t-(W-1)+k).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLane Sum(in ConvInputs p, float** sources, int channel, int width)
    {
        var sum = p.Bias == null ? TLane.Zero : LaneMemory.Load<TLane>(p.Bias + channel, width);
        for (var k = 0; k < p.Width; k++)
        {
            if (sources[k] != null)
            {
                var tap = LaneMemory.Load<TLane>(p.Taps + ((long)k * p.Channels) + channel, width);
                sum = TLane.MultiplyAdd(LaneMemory.Load<TLane>(sources[k] + channel, width), tap, sum);
            }
        }

        return sum;
    }
}
