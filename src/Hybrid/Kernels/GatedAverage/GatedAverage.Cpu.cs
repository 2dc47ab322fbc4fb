using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedAverage
{
    /// <summary>The SIMD kernel.</summary>
    internal static CpuKernel Simd { get; } = new("GatedAverage.Cpu", CpuSelfTest);

    /// <summary>The average as one SIMD pass over time.</summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor valuesAndGates, Tensor decay, Tensor? logits, Tensor? initialState, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var (y, final) = ChannelScan.Run(
            default(Cell), [valuesAndGates, logits], [decay], initialState is null ? [] : [initialState], mask, restart, Composed, stateGradient ? 1 : 0);
        return (y, final[0]);

        static Tensor[] Composed(ChannelScanTensors x)
        {
            var (y, state) = Reference(x.Inputs[0]!, x.Constants[0], x.Inputs[1], x.Initial.FirstOrDefault(), x.Mask, x.Restart);
            return [y, state];
        }
    }

    /// <summary>A few tokens in place on the state, for decoding; null where that cannot run.</summary>
    /// <param name="valuesAndGates">[B, T, 2E].</param>
    /// <param name="decay">[E].</param>
    /// <param name="logits">[B, T, E], or null.</param>
    /// <param name="state">[B, E]; advanced.</param>
    /// <returns>y [B, T, E], in the current dispose scope, or null.</returns>
    internal static Tensor? Step(Tensor valuesAndGates, Tensor decay, Tensor? logits, Tensor state) =>
        !is_grad_enabled() && Simd.CanRunInPlace(("valuesAndGates", valuesAndGates), ("decay", decay), ("logits", logits), ("state", state))
            ? ChannelScan.InPlace(default(Cell), [valuesAndGates, logits], [decay], [state], (int)state.size(1))
            : null;

    /// <summary>Results and gradients of a small ragged average, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        return SelfTest.Difference(
            SelfTestInputs(batch: 2, time: 35), 1e-4, x => Cpu(x[0], x[1], x[2], x[3], null, null), x => Reference(x[0], x[1], x[2], x[3], null, null));
    }

    /// <summary>The tensors of an average in the order of <see cref="Apply"/>, with logits and an initial state.</summary>
    private static Tensor[] SelfTestInputs(long batch, long time)
    {
        const long channels = 19;
        return
        [
            SelfTest.Values(1, 1, batch, time, 2 * channels), SelfTest.Values(2, 3, channels), SelfTest.Values(3, 2, batch, time, channels),
            SelfTest.Values(4, 1, batch, channels),
        ];
    }

    /// <summary>Inputs v, g and, where it is there, l; constant d.</summary>
    private readonly struct Cell : IChannelCell
    {
        private const int Value = 0, Gate = 1, Logit = 2;

        public static int States => 1;

        public static float Fresh(int state) => 0;

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        public void Advance<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            if (!step.IsReal)
            {
                step.KeepStates(States);
                return;
            }

            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var (keep, enter) = Shares(step, c);
                step.SetState(0, c, TLane.MultiplyAdd(keep, step.StateBefore(0, c), enter * step.Input(Value, c)));
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        public void Forward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            Advance(step);
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                step.SetOutput(c, step.StateAfter(0, c) * LaneMath.Sigmoid(step.Input(Gate, c)));
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        public void Backward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var (gradient, gate) = (step.Gradient(c), LaneMath.Sigmoid(step.Input(Gate, c)));
                step.SetGradInput(Gate, c, gradient * step.StateAfter(0, c) * gate * (TLane.Broadcast(1) - gate));
                step.SetGradState(0, c, TLane.MultiplyAdd(gradient, gate, step.GradState(0, c)));
            }

            if (step.IsReal)
            {
                Return(step);
                return;
            }

            step.ClearGradInput(Value);
            if (step.Has(Logit))
            {
                step.ClearGradInput(Logit);
            }
        }

        /// <summary>Back through the average: dh / dl = (h_(t-1) - v) a (1 - a).</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void Return<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var (flow, (keep, enter)) = (step.GradState(0, c), Shares(step, c));
                var gradLogit = flow * (step.StateBefore(0, c) - step.Input(Value, c)) * (keep * enter);
                step.SetGradInput(Value, c, flow * enter);
                step.AddGradConstant(0, c, gradLogit);
                if (step.Has(Logit))
                {
                    step.SetGradInput(Logit, c, gradLogit);
                }

                step.SetGradState(0, c, flow * keep);
            }
        }

        /// <summary>a and 1 - a, each exact where it is small.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static (TLane Keep, TLane Enter) Shares<TLane>(in ChannelStep<TLane> step, int channel)
            where TLane : struct, ILane<TLane>
        {
            var logit = step.Has(Logit) ? step.Input(Logit, channel) + step.Constant(0, channel) : step.Constant(0, channel);
            return (LaneMath.Sigmoid(logit), LaneMath.Sigmoid(TLane.Zero - logit));
        }
    }
}
