using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>The name of the SIMD kernel in logs.</summary>
    internal const string CpuKernel = "GatedDelta.Cpu";

    /// <summary>True where the SIMD kernel can run on the tensors of a call; otherwise <paramref name="reason"/> says why not.</summary>
    internal static bool CanRunOnCpu(out string reason, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) =>
        LaneTasks.CanRun(out reason, tensors) && KernelDispatcher.Agrees(CpuKernel, CpuSelfTest, out reason);

    /// <summary>The chunked matrix form with all of a chunk in the cache, in float32 whatever the inputs are.</summary>
    internal static (Tensor O, Tensor FinalState) Cpu(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g, double scale, bool normalise, Tensor? initialState, Tensor? mask, Tensor? restart,
        bool stateGradient = true)
    {
        var x = new DeltaTensors(
            Last(q), Last(k), Last(v), Last(beta), g is null ? null : Last(g), initialState?.to_type(ScalarType.Float32).contiguous(),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous(), new DeltaKeys(scale, normalise));
        var (o, final) = RecordedKernel.Run(new Rule(x.Keys), x.All, stateGradient ? 1 : 0);
        return (o.to_type(q.dtype), final[0]);

        static Tensor Last(Tensor tensor) => RowView.Of(tensor.to_type(ScalarType.Float32));
    }

    /// <summary>The rule with a backward pass that keeps nothing but the inputs, in the order of <see cref="DeltaTensors"/>.</summary>
    private sealed record Rule(DeltaKeys Keys) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var x = DeltaTensors.From(inputs, Keys);
            var shape = x.Q.shape;
            var final = empty([shape[0], shape[2], shape[3], x.V.size(3)], dtype: ScalarType.Float32);
            return (DeltaOnCpu.Forward(x, final), [final], null);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var x = DeltaTensors.From(inputs, Keys);
            var gradO = gradY is null ? zeros(x.V.shape, dtype: ScalarType.Float32) : RowView.Of(gradY);
            return DeltaOnCpu.Backward(x, gradO, gradFinal.ElementAtOrDefault(0)?.contiguous());
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs)
        {
            var (q, k, v, beta, g, initial, mask, restart, _) = DeltaTensors.From(inputs, Keys);
            var (o, state) = GatedDelta.Reference(q, k, v, beta, g, Keys.Scale, Keys.Normalise, initial, mask, restart);
            return [o, state];
        }
    }

    /// <summary>Results and gradients of a small ragged case with everything in it, against the reference in float64.</summary>
    private static string? CpuSelfTest()
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, heads = 2, keyWidth = 5, valueWidth = 19;
        const double scale = 0.7;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, heads, keyWidth), SelfTest.Values(2, 1, batch, time, heads, keyWidth),
            SelfTest.Values(3, 1, batch, time, heads, valueWidth), SelfTest.Values(4, 2, batch, time, heads).sigmoid(),
            SelfTest.Values(5, 1, batch, time, heads).exp().mul(-0.1), SelfTest.Values(6, 1, batch, heads, keyWidth, valueWidth),
        ];
        return SelfTest.Difference(
            inputs,
            1e-4,
            x => Cpu(x[0], x[1], x[2], x[3], x[4], scale, true, x[5], null, null),
            x => Reference(x[0], x[1], x[2], x[3], x[4], scale, true, x[5], null, null));
    }
}
