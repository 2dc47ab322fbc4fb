using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;

namespace Hybrid.Kernels;

/// <summary>
/// The convolution of four taps over one sequence a row, which is that of nearly all models. Within a tile of steps, a register of channels
/// goes through time with its taps, the inputs under them and the sums of their gradients in registers, so that a step loads an input and
/// stores a result; <see cref="ConvKernel{TLane}"/>, for any taps and packed rows, goes through the channels of a step.
/// </summary>
/// <remarks>
/// What goes through time is compiled fully at first call, and on its own: inlined into what calls it, the backward pass over 2048 steps of
/// 1536 channels took four times as long.
/// </remarks>
internal static unsafe class FourTapKernel<TLane>
    where TLane : struct, ILane<TLane>
{
    /// <summary>y of a tile of steps of a row.</summary>
    public static void Forward(in ConvInputs p, RowView y, int row, int start, int count)
    {
        var channel = 0;
        for (; channel <= p.Channels - TLane.Count; channel += TLane.Count)
        {
            Forward(p, y, row, start, count, channel, default(WholeLanes));
        }

        if (channel < p.Channels)
        {
            Forward(p, y, row, start, count, channel, new FirstLanes(p.Channels - channel));
        }
    }

    /// <summary>
    /// The gradients of the inputs of a tile of steps, with those of the history in the first, and what the tile adds to the gradients of taps
    /// and bias in a part of their own.
    /// </summary>
    public static void Backward(in ConvInputs p, in ConvGradients g, int part, int row, int start, int count)
    {
        var channel = 0;
        for (; channel <= p.Channels - TLane.Count; channel += TLane.Count)
        {
            Backward(p, g, part, row, start, count, channel, default(WholeLanes));
        }

        if (channel < p.Channels)
        {
            Backward(p, g, part, row, start, count, channel, new FirstLanes(p.Channels - channel));
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]
    private static void Forward<TEdge>(in ConvInputs p, RowView y, int row, int start, int count, int channel, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var taps = new Taps<TEdge>(p, channel, edge);
        var (x0, x1, x2) = (Input(p, row, start - 3, channel, edge), Input(p, row, start - 2, channel, edge), Input(p, row, start - 1, channel, edge));
        for (var t = start; t < start + count; t++)
        {
            var x3 = edge.Load<TLane>(p.X.At(row, t) + channel);
            var sum = taps.Sum(x0, x1, x2, x3);
            edge.Store(p.Silu ? sum * LaneMath.Sigmoid(sum) : sum, y.At(row, t) + channel);
            (x0, x1, x2) = (x1, x2, x3);
        }
    }

    /// <summary>
    /// With dp_t the gradient before the activation: d tap_k += dp_t x_(t-3+k), and x_(t-3), which no output after t is made of, gets
    /// sum_k tap_k dp_(t-k). The dp of the three steps after the tile are computed for its last inputs, and again for their own tile.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]
    private static void Backward<TEdge>(in ConvInputs p, in ConvGradients g, int part, int row, int start, int count, int channel, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var taps = new Taps<TEdge>(p, channel, edge);
        var sums = g.Taps + ((long)part * (p.Width + 1) * p.Channels) + channel;
        var (sum0, sum1) = (edge.Load<TLane>(sums), edge.Load<TLane>(sums + p.Channels));
        var (sum2, sum3) = (edge.Load<TLane>(sums + (2L * p.Channels)), edge.Load<TLane>(sums + (3L * p.Channels)));
        var bias = edge.Load<TLane>(sums + (4L * p.Channels));

        var (x0, x1, x2) = (Input(p, row, start - 3, channel, edge), Input(p, row, start - 2, channel, edge), Input(p, row, start - 1, channel, edge));
        var (dp0, dp1, dp2) = (TLane.Zero, TLane.Zero, TLane.Zero);
        var end = start + count;
        for (var t = start; t < end + 3; t++)
        {
            var dp3 = TLane.Zero;
            if (t < p.Time)
            {
                var x3 = edge.Load<TLane>(p.X.At(row, t) + channel);
                dp3 = edge.Load<TLane>(g.Y.At(row, t) + channel);
                if (p.Silu)
                {
                    dp3 *= LaneMath.SiluSlope(taps.Sum(x0, x1, x2, x3));
                }

                if (t < end)
                {
                    sum0 = TLane.MultiplyAdd(dp3, x0, sum0);
                    sum1 = TLane.MultiplyAdd(dp3, x1, sum1);
                    sum2 = TLane.MultiplyAdd(dp3, x2, sum2);
                    sum3 = TLane.MultiplyAdd(dp3, x3, sum3);
                    bias += dp3;
                }

                (x0, x1, x2) = (x1, x2, x3);
            }

            if (t >= start + 3)
            {
                edge.Store(taps.Spread(dp0, dp1, dp2, dp3), g.X.At(row, t - 3) + channel);
            }
            else if (start == 0 && g.History.Exists)
            {
                edge.Store(taps.Spread(dp0, dp1, dp2, dp3), g.History.At(row, t) + channel);
            }

            (dp0, dp1, dp2) = (dp1, dp2, dp3);
        }

        edge.Store(sum0, sums);
        edge.Store(sum1, sums + p.Channels);
        edge.Store(sum2, sums + (2L * p.Channels));
        edge.Store(sum3, sums + (3L * p.Channels));
        edge.Store(bias, sums + (4L * p.Channels));
    }

    /// <summary>An input at or before the start of a tile; zero before the first where there is no history.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLane Input<TEdge>(in ConvInputs p, int row, int step, int channel, TEdge edge)
        where TEdge : struct, ILaneEdge
    {
        var source = p.Input(row, step);
        return source == null ? TLane.Zero : edge.Load<TLane>(source + channel);
    }

    /// <summary>Taps and bias of a register of channels.</summary>
    private readonly struct Taps<TEdge>
        where TEdge : struct, ILaneEdge
    {
        private readonly TLane tap0;
        private readonly TLane tap1;
        private readonly TLane tap2;
        private readonly TLane tap3;
        private readonly TLane bias;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public Taps(in ConvInputs p, int channel, TEdge edge)
        {
            var first = p.Taps + channel;
            tap0 = edge.Load<TLane>(first);
            tap1 = edge.Load<TLane>(first + p.Channels);
            tap2 = edge.Load<TLane>(first + (2L * p.Channels));
            tap3 = edge.Load<TLane>(first + (3L * p.Channels));
            bias = p.Bias == null ? TLane.Zero : edge.Load<TLane>(p.Bias + channel);
        }

        /// <summary>bias + sum_k tap_k x_k, in the order of <see cref="ConvKernel{TLane}"/>.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public TLane Sum(TLane x0, TLane x1, TLane x2, TLane x3) =>
            TLane.MultiplyAdd(x3, tap3, TLane.MultiplyAdd(x2, tap2, TLane.MultiplyAdd(x1, tap1, TLane.MultiplyAdd(x0, tap0, bias))));

        /// <summary>What the input under the outputs of four steps gets of their gradients; the oldest output took it with the last tap.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public TLane Spread(TLane dp0, TLane dp1, TLane dp2, TLane dp3) =>
            TLane.MultiplyAdd(dp0, tap3, TLane.MultiplyAdd(dp1, tap2, TLane.MultiplyAdd(dp2, tap1, dp3 * tap0)));
    }
}
