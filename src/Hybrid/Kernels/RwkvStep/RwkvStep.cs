using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The weights of an RWKV time mix that a decoding step reads; of the lists, each in the order key, value, receptance, decay.</summary>
/// <param name="Form">Three of each list in the form of RWKV-4, whose decay is a constant; else four.</param>
/// <param name="Shares">Each [1, 1, D].</param>
/// <param name="Projections">Each [E, D].</param>
/// <param name="TimeDecay">[E].</param>
/// <param name="Bonus">[E].</param>
internal readonly record struct RwkvStepWeights(WkvForm Form, Tensor[] Shares, Tensor[] Projections, Tensor TimeDecay, Tensor Bonus);

/// <summary>
/// One token of an RWKV time mix up to its output projection, in place on the state: the token shift in one pass, the projections, and the
/// running mean in one pass.
/// </summary>
internal static unsafe class RwkvStep
{
    /// <summary>Above this many rows matrix products are the better choice.</summary>
    private const long MaxRows = 8;

    private static readonly CpuKernel Simd = new("RwkvStep", Compare);

    /// <summary>Runs the step where it can: float32 on CPU, without autograd.</summary>
    /// <param name="x">The token [B, 1, D].</param>
    /// <param name="weights">The layer.</param>
    /// <param name="last">The token before [B, D]; becomes this one.</param>
    /// <param name="state">The running sums; advanced.</param>
    /// <returns>The output before its projection [B, 1, E], in the current dispose scope; null where the step cannot run.</returns>
    public static Tensor? Apply(Tensor x, RwkvStepWeights weights, Tensor last, WkvState state)
    {
        return !is_grad_enabled() && last.size(0) <= MaxRows && CanRun(x, weights, last, state) ? Run(x, weights, last, state) : null;
    }

    private static Tensor Run(Tensor x, RwkvStepWeights weights, Tensor last, WkvState state)
    {
        using var scope = NewDisposeScope();
        var (count, batch, width, inner) = (weights.Shares.Length, last.size(0), last.size(1), weights.Bonus.size(0));
        var (mixed, projected) = (empty([count, batch, width], dtype: ScalarType.Float32), empty([count, batch, 1, inner], dtype: ScalarType.Float32));
        for (var i = 0; i < count; i++)
        {
            var input = ScanInputs.Floats(mixed) + (i * batch * width);
            LaneTasks.Run(
                new ShiftWork(ScanInputs.Floats(x), ScanInputs.Floats(last), ScanInputs.Floats(weights.Shares[i]), input, (int)width), (int)batch, batch * width);
            LinearStep.Run<Float32Weights>(new LinearStepSizes
            {
                Input = input,
                Weights = TensorMemory.Address(weights.Projections[i]),
                Bias = i == 3 ? ScanInputs.Floats(weights.TimeDecay) : null,
                Output = ScanInputs.Floats(projected) + (i * batch * inner),
                Rows = (int)batch,
                Width = (int)width,
                Outputs = (int)inner,
            });
        }

        LaneMemory.Copy(ScanInputs.Floats(x), ScanInputs.Floats(last), (int)(batch * width));
        TensorMemory.KeepAlive([x, last, mixed, .. weights.Shares, .. weights.Projections, weights.TimeDecay]);
        var parts = projected.unbind(0);
        return Wkv.Step(weights.Form, count > 3 ? parts[3] : weights.TimeDecay, weights.Bonus, parts[0], parts[1], parts[2], state).MoveToOuterDisposeScope();
    }

    private static bool CanRun(Tensor x, RwkvStepWeights weights, Tensor last, WkvState state)
    {
        foreach (var weight in (ReadOnlySpan<Tensor>)[.. weights.Shares, .. weights.Projections])
        {
            if (!Simd.CanRunInPlace(("a weight", weight)))
            {
                return false;
            }
        }

        return Simd.CanRunInPlace(
            ("x", x), ("timeDecay", weights.TimeDecay), ("bonus", weights.Bonus), ("last", last), ("state.Numerator", state.Numerator),
            ("state.Denominator", state.Denominator), ("state.Maximum", state.Maximum));
    }

    /// <summary>The self-test: output and sums of one step of both forms against tensor operations.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        const long batch = 2, width = 21, inner = 19;
        return Difference(WkvForm.DataDependent, 4) ?? Difference(WkvForm.Rwkv4, 3);

        static string? Difference(WkvForm form, int count)
        {
            var weights = new RwkvStepWeights(
                form, [.. Enumerable.Range(1, count).Select(i => SelfTest.Values(i, 1, 1, 1, width))],
                [.. Enumerable.Range(5, count).Select(i => SelfTest.Values(i, 0.5, inner, width))], SelfTest.Values(9, 1, inner), SelfTest.Values(10, 1, inner));
            var (x, last) = (SelfTest.Values(11, 1, batch, 1, width), SelfTest.Values(12, 1, batch, width));
            WkvState state = new(SelfTest.Values(13, 1, batch, inner), SelfTest.Values(14, 1, batch, inner).exp(), SelfTest.Values(15, 1, batch, inner));
            var parts = weights.Shares.Zip(weights.Projections).Select(pair => nn.functional.linear(
                (Wide(x) * Wide(pair.First)) + (Wide(last).unsqueeze(1) * (1 - Wide(pair.First))), Wide(pair.Second))).ToArray();
            var (expected, sums) = Wkv.Reference(
                form, count > 3 ? parts[3] + Wide(weights.TimeDecay) : Wide(weights.TimeDecay), Wide(weights.Bonus), parts[0], parts[1], parts[2],
                new(Wide(state.Numerator), Wide(state.Denominator), Wide(state.Maximum)), null, null);
            var y = Run(x, weights, last, state);
            return SelfTest.Compare(
                [expected, sums.Numerator, sums.Denominator, sums.Maximum, x.squeeze(1)], [y, state.Numerator, state.Denominator, state.Maximum, last], 1e-5);
        }

        static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float64);
    }

    /// <summary>x m + x_(t-1) (1 - m) of one row.</summary>
    private readonly struct ShiftWork(float* x, float* last, float* share, float* target, int width) : ILaneWork
    {
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var at = (long)task * width;
            for (var c = 0; c < width; c += TLane.Count)
            {
                var (token, before) = (LaneMemory.Load<TLane>(x + at + c, width - c), LaneMemory.Load<TLane>(last + at + c, width - c));
                var m = LaneMemory.Load<TLane>(share + c, width - c);
                LaneMemory.Store(TLane.MultiplyAdd(token, m, before * (TLane.Broadcast(1) - m)), target + at + c, width - c);
            }
        }
    }
}
