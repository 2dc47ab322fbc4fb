using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedDelta
{
    /// <summary>The rule in kernels of its own, in float32 whatever the inputs are.</summary>
    internal static (Tensor O, Tensor FinalState) Fused(
        IDeltaDevice device, Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g, double scale, bool normalise, Tensor? initialState, Tensor? mask,
        Tensor? restart, bool stateGradient = true)
    {
        var dtype = device.RowType([q, k, v]);
        var x = new DeltaTensors(
            Last(q, dtype), Last(k, dtype), Last(v, dtype), Last(beta, ScalarType.Float32), g is null ? null : Last(g, ScalarType.Float32),
            initialState?.to_type(ScalarType.Float32).contiguous(), mask?.to_type(ScalarType.Bool).contiguous(),
            restart?.to_type(ScalarType.Bool).contiguous(), new DeltaKeys(scale, normalise));
        var (o, final) = RecordedKernel.Run(new Rule(device, x.Keys), x.All, stateGradient ? 1 : 0);
        return (o.to_type(q.dtype), final[0]);

        static Tensor Last(Tensor tensor, ScalarType dtype) => RowView.Of(tensor.to_type(dtype));
    }

    /// <summary>The rule with a backward pass that keeps the inputs, in the order of <see cref="DeltaTensors"/>, and what the device wants besides.</summary>
    private sealed record Rule(IDeltaDevice Device, DeltaKeys Keys) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var x = DeltaTensors.From(inputs, Keys);
            var shape = x.Q.shape;
            var final = empty([shape[0], shape[2], shape[3], x.V.size(3)], dtype: ScalarType.Float32, device: x.Q.device);
            var (o, kept) = Device.Forward(x, final, keep);
            return (o, [final], kept);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var x = DeltaTensors.From(inputs, Keys);
            var gradO = gradY is null ? zeros(x.V.shape, dtype: ScalarType.Float32, device: x.V.device) : RowView.Of(gradY);
            return Device.Backward(x, kept, gradO, gradFinal.ElementAtOrDefault(0)?.contiguous());
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs)
        {
            // The kernel's output is float32 whatever its inputs are.
            var (q, k, v, beta, g, initial, mask, restart, _) = DeltaTensors.From(inputs, Keys);
            var (o, state) = GatedDelta.Reference(q.to_type(ScalarType.Float32), k, v, beta, g, Keys.Scale, Keys.Normalise, initial, mask, restart);
            return [o, state];
        }
    }

    /// <summary>The self-test: results and gradients of a small ragged case with everything in it, against the reference in float64.</summary>
    private static string? SelfTestOf(IDeltaDevice rule, Device device)
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
            x => Fused(rule, x[0], x[1], x[2], x[3], x[4], scale, true, x[5], null, null),
            x => Reference(x[0], x[1], x[2], x[3], x[4], scale, true, x[5], null, null),
            device);
    }
}
