using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class LinearRecurrence
{
    /// <summary>The SIMD kernel.</summary>
    internal static ChannelScan.Kernel CpuKernel { get; } = new("LinearRecurrence.Cpu", CpuSelfTest);

    /// <summary>The recurrence as one SIMD pass over time.</summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor x, Tensor logDecay, Tensor? initialState, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var (y, final) = ChannelScan.Run(
            default(Cell), [x, logDecay], [], initialState is null ? [] : [initialState], mask, restart, stateGradient ? 1 : 0);
        return (y, final[0]);
    }

    /// <summary>Results and gradients of a small ragged recurrence, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        const long batch = 2, time = 35, channels = 19;
        return ChannelScanSelfTest.Compare(
            [SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 2, batch, time, channels).exp().neg(), SelfTest.Values(3, 1, batch, channels)],
            x => Results(Cpu(x[0], x[1], x[2], null, null)),
            x => Results(Reference(x[0], x[1], x[2], null, null)));

        static Tensor[] Results((Tensor Y, Tensor State) results) => [results.Y, results.State];
    }

    /// <summary>h = e^g h + x; y = h. Inputs x, g.</summary>
    private readonly struct Cell : IChannelCell
    {
        public static int States => 1;

        public static float Fresh(int state) => 0;

        public void Advance<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane> => Forward(step);

        public TLane Forward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            var h = step.StateBefore(0);
            h = step.IsReal ? TLane.MultiplyAdd(LaneMath.Exp(step.Input(1)), h, step.Input(0)) : h;
            step.SetState(0, h);
            return h;
        }

        public void Backward<TLane>(in ChannelStep<TLane> step, TLane gradient)
            where TLane : struct, ILane<TLane>
        {
            var flow = step.GradState(0) + gradient;
            if (!step.IsReal)
            {
                step.SetGradInput(0, TLane.Zero);
                step.SetGradInput(1, TLane.Zero);
                step.SetGradState(0, flow);
                return;
            }

            var passed = flow * LaneMath.Exp(step.Input(1));
            step.SetGradInput(0, flow);
            step.SetGradInput(1, passed * step.StateBefore(0));
            step.SetGradState(0, passed);
        }
    }
}
