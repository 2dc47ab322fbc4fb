using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class LinearRecurrence
{
    /// <summary>The SIMD kernel.</summary>
    internal static CpuKernel Simd { get; } = new("LinearRecurrence.Cpu", CpuSelfTest);

    /// <summary>The recurrence as one SIMD pass over time.</summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor x, Tensor logDecay, Tensor? initialState, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var (y, final) = ChannelScan.Run(
            default(Cell), [x, logDecay], [], initialState is null ? [] : [initialState], mask, restart, Composed, stateGradient ? 1 : 0);
        return (y, final[0]);

        static Tensor[] Composed(ChannelScanTensors x)
        {
            var (y, state) = Reference(x.Inputs[0]!, x.Inputs[1]!, x.Initial.FirstOrDefault(), x.Mask, x.Restart);
            return [y, state];
        }
    }

    /// <summary>Results and gradients of a small ragged recurrence, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, channels = 19;
        return SelfTest.Difference(
            [SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 2, batch, time, channels).exp().neg(), SelfTest.Values(3, 1, batch, channels)],
            1e-4,
            x => Cpu(x[0], x[1], x[2], null, null),
            x => Reference(x[0], x[1], x[2], null, null));
    }

    /// <summary>h = e^g h + x; y = h. Inputs x, g.</summary>
    private readonly struct Cell : IChannelCell
    {
        private const int X = 0, LogDecay = 1;

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
                step.SetState(0, c, TLane.MultiplyAdd(LaneMath.Exp(step.Input(LogDecay, c)), step.StateBefore(0, c), step.Input(X, c)));
            }
        }

        public void Forward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            Advance(step);
            step.OutputState(0);
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        public void Backward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            if (!step.IsReal)
            {
                step.AddGradOutput(0);
                step.ClearGradInput(X);
                step.ClearGradInput(LogDecay);
                return;
            }

            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var flow = step.GradState(0, c) + step.Gradient(c);
                var passed = flow * LaneMath.Exp(step.Input(LogDecay, c));
                step.SetGradInput(X, c, flow);
                step.SetGradInput(LogDecay, c, passed * step.StateBefore(0, c));
                step.SetGradState(0, c, passed);
            }
        }
    }
}
