using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class Wkv
{
    /// <summary>The SIMD kernel.</summary>
    internal static CpuKernel Simd { get; } = new("Wkv.Cpu", CpuSelfTest);

    /// <summary>Both forms as one SIMD pass over time.</summary>
    internal static (Tensor Y, WkvState FinalState) Cpu(
        WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, Tensor? receptance, WkvState? initialState, Tensor? mask, Tensor? restart,
        bool stateGradient = true)
    {
        var dataDependent = form == WkvForm.DataDependent;
        Tensor[] constants = dataDependent ? [bonus] : [bonus, LogDecay(form, decay.to_type(ScalarType.Float32))];
        var (y, final) = ChannelScan.Run(
            new Cell(form), [key, value, receptance, dataDependent ? decay : null], constants, initialState is { } state ? States(state) : [], mask, restart,
            Composed, stateGradient ? 2 : 0);
        return (y, new(final[0], final[1], final[2]));

        Tensor[] Composed(ChannelScanTensors x)
        {
            var logDecay = dataDependent ? LogDecay(form, x.Inputs[3]!) : x.Constants[1];
            WkvState? state = x.Initial.Length == 0 ? null : new(x.Initial[0], x.Initial[1], x.Initial[2]);
            var (mean, sums) = Reference(dataDependent, logDecay, x.Constants[0], x.Inputs[0]!, x.Inputs[1]!, x.Inputs[2], state, x.Mask, x.Restart);
            return [mean, sums.Numerator, sums.Denominator];
        }
    }

    /// <summary>A few tokens in place on the state, for decoding. All tensors are float32 and contiguous.</summary>
    /// <returns>The output [B, T, E], in the current dispose scope.</returns>
    internal static Tensor Step(WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, Tensor receptance, WkvState state)
    {
        var dataDependent = form == WkvForm.DataDependent;
        return ChannelScan.InPlace(
            new Cell(form), [key, value, receptance, dataDependent ? decay : null], dataDependent ? [bonus] : [bonus, LogDecay(form, decay)],
            [state.Numerator, state.Denominator, state.Maximum], (int)bonus.size(0));
    }

    /// <summary>The sums relative to the maximum as a constant; gradients of a given maximum go into the sums.</summary>
    private static Tensor[] States(WkvState state)
    {
        var maximum = state.Maximum.detach();
        if (!state.Maximum.requires_grad)
        {
            return [state.Numerator, state.Denominator, maximum];
        }

        var scale = (state.Maximum - maximum).exp();
        return [state.Numerator * scale, state.Denominator * scale, maximum];
    }

    /// <summary>Results and gradients of both forms, small and ragged, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, channels = 19;
        return Difference(WkvForm.DataDependent, SelfTest.Values(1, 2, batch, time, channels)) ?? Difference(WkvForm.Rwkv4, SelfTest.Values(1, 2, channels));

        static string? Difference(WkvForm form, Tensor decay) => SelfTest.Difference(
            [
                decay, SelfTest.Values(2, 1, channels), SelfTest.Values(3, 3, batch, time, channels), SelfTest.Values(4, 1, batch, time, channels),
                SelfTest.Values(5, 2, batch, time, channels), SelfTest.Values(6, 1, batch, channels), SelfTest.Values(7, 1, batch, channels).exp(),
                SelfTest.Values(8, 1, batch, channels),
            ],
            1e-4,
            x => Differentiable(Cpu(form, x[0], x[1], x[2], x[3], x[4], new(x[5], x[6], x[7]), null, null)),
            x => Differentiable(Reference(form, x[0], x[1], x[2], x[3], x[4], new(x[5], x[6], x[7]), null, null)));
    }

    /// <summary>What of the results gradients go through.</summary>
    private static Tensor[] Differentiable((Tensor Y, WkvState State) results) => [results.Y, results.State.Numerator, results.State.Denominator];

    /// <summary>
    /// Inputs k, v, the raw receptance r or none, and, in the data-dependent form, w; constants u and, in the form of RWKV-4, log d. States
    /// are the sums n and d and the maximum m, which is a constant to gradients. With m' = max(m + log d, k), p = e^(m - m' + log d) and
    /// q = e^(k - m'): n' = p n + q v, d' = p d + q.
    /// </summary>
    private readonly struct Cell(WkvForm form) : IChannelCell
    {
        private const int Key = 0, Value = 1, Receptance = 2, Decay = 3;
        private const int Bonus = 0, LogRate = 1;
        private const int Numerator = 0, Denominator = 1, Maximum = 2;
        private const int LogDecay = 0, Past = 1, Openness = 2, MeanRow = 2;

        /// <summary>The log weight of the constant in the denominator, log 1e-6.</summary>
        private const float LogEpsilon = -13.8155106f;

        private readonly bool dataDependent = form == WkvForm.DataDependent;

        public static int States => 3;

        public static float Fresh(int state) => state == Maximum ? (float)NoMaximum : 0;

        public void Forward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            LogDecays(step);
            Mean(step);
            Move(step);
            if (step.Has(Receptance))
            {
                Gate(step);
            }
        }

        public void Advance<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            LogDecays(step);
            Move(step);
        }

        public void Backward<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            LogDecays(step);
            if (step.Has(Receptance))
            {
                GateGradients(step);
            }

            MeanGradients(step);
            SumGradients(step);
            if (dataDependent)
            {
                DecayGradients(step);
            }
        }

        /// <summary>Leaves log d, 0 at padding.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private void LogDecays<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var value = TLane.Zero;
                if (step.IsReal)
                {
                    value = dataDependent ? TLane.Zero - LaneMath.Softplus(step.Input(Decay, c)) : step.Constant(LogRate, c);
                }

                step.Leave(LogDecay, c, value);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private void Mean<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                step.SetOutput(c, Mean(step, c, out _, out _, out _));
            }
        }

        /// <summary>The mean, relative to the larger weight of the sums and of the token; and the two weights and their sum.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private TLane Mean<TLane>(in ChannelStep<TLane> step, int c, out TLane past, out TLane now, out TLane sum)
            where TLane : struct, ILane<TLane>
        {
            var (maximum, key, bonus) = (step.StateBefore(Maximum, c), step.Input(Key, c), step.Constant(Bonus, c));
            var passed = dataDependent ? step.Left(LogDecay, c) : TLane.Zero;
            var top = TLane.AtLeast(maximum + passed, key + bonus);
            var epsilon = TLane.Zero;
            if (dataDependent)
            {
                top = TLane.AtLeast(TLane.Broadcast(LogEpsilon), top);
                epsilon = LaneMath.Exp(TLane.Broadcast(LogEpsilon) - top);
            }

            past = LaneMath.Exp(maximum - top + passed);
            now = LaneMath.Exp(key - top + bonus);
            sum = TLane.MultiplyAdd(past, step.StateBefore(Denominator, c), now) + epsilon;
            return TLane.MultiplyAdd(past, step.StateBefore(Numerator, c), now * step.Input(Value, c)) / sum;
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void Move<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            if (!step.IsReal)
            {
                step.KeepStates(States);
                return;
            }

            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var (keep, weight, top) = Shares(step, c);
                step.SetState(Numerator, c, TLane.MultiplyAdd(keep, step.StateBefore(Numerator, c), weight * step.Input(Value, c)));
                step.SetState(Denominator, c, TLane.MultiplyAdd(keep, step.StateBefore(Denominator, c), weight));
                step.SetState(Maximum, c, top);
            }
        }

        /// <summary>What the sums keep, what the token weighs, and the new maximum. Maxima are subtracted first, as their difference is exact.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static (TLane Keep, TLane Weight, TLane Maximum) Shares<TLane>(in ChannelStep<TLane> step, int c)
            where TLane : struct, ILane<TLane>
        {
            var (logDecay, maximum, key) = (step.Left(LogDecay, c), step.StateBefore(Maximum, c), step.Input(Key, c));
            var top = TLane.AtLeast(maximum + logDecay, key);
            return (LaneMath.Exp(maximum - top + logDecay), LaneMath.Exp(key - top), top);
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void Gate<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                step.SetOutput(c, step.OutputSoFar(c) * LaneMath.Sigmoid(step.Input(Receptance, c)));
            }
        }

        /// <summary>Leaves sigmoid(r), and sets the gradient of r but for its factor, the mean.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void GateGradients<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var gate = LaneMath.Sigmoid(step.Input(Receptance, c));
                step.Leave(Openness, c, gate);
                step.SetGradInput(Receptance, c, step.Gradient(c) * gate * (TLane.Broadcast(1) - gate));
            }
        }

        /// <summary>
        /// Back through y = S / D, S = past n + now v, D = past d + now (and a constant): dS = dy / D, dD = -y dS, d now = dS (v - y). Leaves
        /// dS past and y, and sets gradients of k and v that <see cref="SumGradients"/> adds to.
        /// </summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private void MeanGradients<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var (mean, gradient) = (Mean(step, c, out var past, out var now, out var sum), step.Gradient(c));
                if (step.Has(Receptance))
                {
                    gradient *= step.Left(Openness, c);
                    step.SetGradInput(Receptance, c, mean * step.GradInput(Receptance, c));
                }

                gradient /= sum;
                var gradKey = gradient * now * (step.Input(Value, c) - mean);
                step.AddGradConstant(Bonus, c, gradKey);
                step.SetGradInput(Key, c, gradKey);
                step.SetGradInput(Value, c, gradient * now);
                step.Leave(Past, c, gradient * past);
                step.Leave(MeanRow, c, mean);
            }
        }

        /// <summary>Back through n' = p n + q v and d' = p d + q. Leaves the gradient of log d.</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private void SumGradients<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                var (gradPast, mean) = (step.Left(Past, c), step.Left(MeanRow, c));
                var (gradN, gradD, gradLogDecay) = (step.GradState(Numerator, c), step.GradState(Denominator, c), TLane.Zero);
                if (step.IsReal)
                {
                    var (n, d) = (step.StateBefore(Numerator, c), step.StateBefore(Denominator, c));
                    var (keep, weight, _) = Shares(step, c);
                    var gradWeight = TLane.MultiplyAdd(gradN, step.Input(Value, c), gradD);
                    step.SetGradInput(Key, c, TLane.MultiplyAdd(weight, gradWeight, step.GradInput(Key, c)));
                    step.SetGradInput(Value, c, TLane.MultiplyAdd(gradN, weight, step.GradInput(Value, c)));
                    (gradN, gradD) = (gradN * keep, gradD * keep);
                    gradLogDecay = TLane.MultiplyAdd(gradN, n, gradD * d);
                    if (dataDependent)
                    {
                        // The mean decays the sums once more.
                        gradLogDecay = TLane.MultiplyAdd(gradPast, n - (mean * d), gradLogDecay);
                    }
                    else
                    {
                        step.AddGradConstant(LogRate, c, gradLogDecay);
                    }
                }

                step.Leave(LogDecay, c, gradLogDecay);
                step.SetGradState(Numerator, c, gradN + gradPast);
                step.SetGradState(Denominator, c, gradD - (gradPast * mean));
            }
        }

        /// <summary>d log d / dw = -sigmoid(w).</summary>
        [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
        private static void DecayGradients<TLane>(in ChannelStep<TLane> step)
            where TLane : struct, ILane<TLane>
        {
            for (var c = 0; c < step.Count; c += TLane.Count)
            {
                step.SetGradInput(Decay, c, TLane.Zero - (step.Left(LogDecay, c) * LaneMath.Sigmoid(step.Input(Decay, c))));
            }
        }
    }
}
