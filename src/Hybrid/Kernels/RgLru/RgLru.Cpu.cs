using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class RgLru
{
    /// <summary>The SIMD kernel.</summary>
    internal static CpuKernel Simd { get; } = new("RgLru.Cpu", CpuSelfTest);

    /// <summary>The unit as the products with the gate weights and one SIMD pass over time.</summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor x, Tensor inputGateWeight, Tensor inputGateBias, Tensor recurrentGateWeight, Tensor recurrentGateBias, Tensor recurrentParam,
        Tensor? initialState, Tensor? firstTokens, Tensor? mask, bool stateGradient = true)
    {
        var rate = recurrentParam.to_type(ScalarType.Float32).softplus() * -Exponent;
        var (y, final) = ChannelScan.Run(
            default(Cell), [x, GateProducts(x, inputGateWeight, recurrentGateWeight)], [rate, inputGateBias.flatten(), recurrentGateBias.flatten()],
            initialState is null ? [] : [initialState], mask, firstTokens, Composed, stateGradient ? 1 : 0);
        return (y, final[0]);

        static Tensor[] Composed(ChannelScanTensors x)
        {
            var products = x.Inputs[1]!.chunk(2, -1);
            var (y, state) = BehindProducts(
                x.Inputs[0]!, products[0], products[1], x.Constants[0], x.Constants[1], x.Constants[2], x.Initial.FirstOrDefault(), x.Restart, x.Mask);
            return [y, state];
        }
    }

    /// <summary>x W_i and behind it x W_r, [B, T, 2E].</summary>
    private static Tensor GateProducts(Tensor x, Tensor inputGateWeight, Tensor recurrentGateWeight)
    {
        var shape = x.shape;
        var (blocks, width) = (inputGateWeight.size(0), inputGateWeight.size(1));
        return BlockProducts(x, inputGateWeight, recurrentGateWeight).view(blocks, -1, 2, width)
            .permute(1, 2, 0, 3).reshape(shape[0], shape[1], 2 * shape[2]);
    }

    /// <summary>The same block by block, [H, B * T, 2w]: one product of every block of x with both.</summary>
    private static Tensor BlockProducts(Tensor x, Tensor inputGateWeight, Tensor recurrentGateWeight)
    {
        var rows = x.reshape(-1, inputGateWeight.size(0), inputGateWeight.size(1)).transpose(0, 1);         // [H, B * T, w]
        return bmm(rows, cat([inputGateWeight, recurrentGateWeight], 2).to_type(x.dtype));
    }

    /// <summary>Results and gradients of a small ragged unit with a second first token, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35;
        var first = arange(time).eq(11).unsqueeze(0).expand(batch, time);
        return SelfTest.Difference(
            SelfTestInputs(batch, time), 1e-4, x => Cpu(x[0], x[1], x[2], x[3], x[4], x[5], x[6], first, null),
            x => Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], first, null));
    }

    /// <summary>The tensors of a unit in the order of <see cref="Apply"/>, with an initial state.</summary>
    private static Tensor[] SelfTestInputs(long batch, long time)
    {
        const long heads = 3, width = 7, channels = heads * width;
        return
        [
            SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 1, heads, width, width), SelfTest.Values(3, 1, heads, width),
            SelfTest.Values(4, 1, heads, width, width), SelfTest.Values(5, 1, heads, width), SelfTest.Values(6, 3, channels),
            SelfTest.Values(7, 1, batch, channels),
        ];
    }

    /// <summary>
    /// The recurrence behind the products. Inputs x, x W_i, x W_r; constants -8 softplus(p), b_i, b_r. With the gates i and r, log a the
    /// product of r and the rate, and m the root of 1 - a^2, 1 at first tokens: h = a h + m i x; y = h.
    /// </summary>
    internal readonly struct Cell : IChannelCell
    {
        private const int X = 0, InputGate = 1, RecurrentGate = 2;
        private const int Rate = 0, InputBias = 1, RecurrentBias = 2;

        public static int States => 1;

        public static float Fresh(int state) => 0;

        public void Advance<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            if (step.IsReal)
            {
                Gates(step);
                Recur(step);
            }
            else
            {
                step.KeepStates(States);
            }
        }

        public void Forward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            Advance(step);
            step.OutputState(0);
        }

        public void Backward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            step.AddGradOutput(0);
            if (step.IsReal)
            {
                Gates(step);
                Return(step);
                return;
            }

            step.ClearGradInput(X);
            step.ClearGradInput(InputGate);
            step.ClearGradInput(RecurrentGate);
        }

        /// <summary>Leaves the two gates i and r.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void Gates<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                step.Leave(InputGate, c, LaneMath.Sigmoid(step.Input(InputGate, c) + step.Constant(InputBias, c)));
                step.Leave(RecurrentGate, c, LaneMath.Sigmoid(step.Input(RecurrentGate, c) + step.Constant(RecurrentBias, c)));
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void Recur<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var h = step.Left(InputGate, c) * step.Input(X, c);
                if (!step.Restarts)
                {
                    var logDecay = step.Left(RecurrentGate, c) * step.Constant(Rate, c);
                    h = TLane.MultiplyAdd(LaneMath.Exp(logDecay), step.StateBefore(0, c), Multiplier(OneMinusSquare(logDecay)) * h);
                }

                step.SetState(0, c, h);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void Return<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            var one = TLane.Broadcast(1);
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var (flow, x, inputGate, recurrentGate) = (step.GradState(0, c), step.Input(X, c), step.Left(InputGate, c), step.Left(RecurrentGate, c));
                var (gradDriven, gradLogDecay, passed) = (flow, TLane.Zero, TLane.Zero);
                if (!step.Restarts)
                {
                    var logDecay = recurrentGate * step.Constant(Rate, c);
                    var (decay, square) = (LaneMath.Exp(logDecay), OneMinusSquare(logDecay));
                    var multiplier = Multiplier(square);

                    // dm / d log a = -a^2 / m, but 0 where m is held at its floor.
                    var slope = TLane.WhereLess(square, TLane.Broadcast((float)SmallestSquare), TLane.Zero, decay * decay / multiplier);
                    (gradDriven, passed) = (flow * multiplier, flow * decay);
                    gradLogDecay = (passed * step.StateBefore(0, c)) - (flow * inputGate * x * slope);
                }

                var gradInputGate = gradDriven * x * inputGate * (one - inputGate);
                var gradRecurrentGate = gradLogDecay * step.Constant(Rate, c) * recurrentGate * (one - recurrentGate);
                step.SetGradInput(X, c, gradDriven * inputGate);
                step.SetGradInput(InputGate, c, gradInputGate);
                step.SetGradInput(RecurrentGate, c, gradRecurrentGate);
                step.AddGradConstant(Rate, c, gradLogDecay * recurrentGate);
                step.AddGradConstant(InputBias, c, gradInputGate);
                step.AddGradConstant(RecurrentBias, c, gradRecurrentGate);
                step.SetGradState(0, c, passed);
            }
        }

        /// <summary>1 - a^2.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static TLane OneMinusSquare<TLane>(TLane logDecay)
            where TLane : struct, ILane<TLane> => TLane.Zero - LaneMath.Expm1(logDecay + logDecay);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static TLane Multiplier<TLane>(TLane square)
            where TLane : struct, ILane<TLane> => TLane.Sqrt(TLane.AtLeast(TLane.Broadcast((float)SmallestSquare), square));
    }
}
