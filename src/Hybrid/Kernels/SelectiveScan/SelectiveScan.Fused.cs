using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class SelectiveScan
{
    /// <summary>The whole scan in kernels of its own, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, Tensor FinalState) Fused(
        IScanDevice device, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? deltaBias, ScanSteps steps,
        Tensor? initialState, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var dtype = device.RowType(new[] { u, delta, z, B, C }.OfType<Tensor>());
        var x = new ScanTensors(
            Rows(u), Rows(delta), Whole(A)!, Matrix(B), Matrix(C), Whole(D), z is null ? null : Rows(z), Whole(deltaBias), Whole(initialState),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous(), steps);
        var (y, final) = RecordedKernel.Run(new Scan(device, steps), x.All, stateGradient ? 1 : 0);
        return (y.to_type(u.dtype), final[0]);

        Tensor Rows(Tensor rows) => RowView.Of(rows.to_type(dtype));

        static Tensor? Whole(Tensor? tensor) => tensor?.to_type(ScalarType.Float32).contiguous();

        Tensor Matrix(Tensor matrix) => matrix.Dimensions == 2 ? matrix.to_type(dtype).contiguous() : Rows(matrix);
    }

    /// <summary>
    /// The scan with a backward pass that keeps the inputs, in the order of <see cref="ScanTensors"/>, and the states at chunk boundaries.
    /// </summary>
    private sealed record Scan(IScanDevice Device, ScanSteps Steps) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var x = ScanTensors.From(inputs, Steps);
            var shape = x.U.shape;
            var final = empty([shape[0], shape[2], x.A.size(1)], dtype: ScalarType.Float32, device: x.U.device);
            var (y, kept) = Device.Forward(x, final, keep);
            return (y, [final], kept);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var x = ScanTensors.From(inputs, Steps);
            var upstream = gradY is null ? zeros(x.U.shape, dtype: x.U.dtype, device: x.U.device) : RowView.Of(gradY);
            return Device.Backward(x, kept!, upstream, gradFinal.ElementAtOrDefault(0)?.contiguous());
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> x)
        {
            var (y, state) = SelectiveScan.Reference(x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], Steps, x[8], x[9], x[10]);
            return [y, state];
        }
    }

    /// <summary>The self-test: results and gradients of a small ragged scan with everything in it, against the reference in float64.</summary>
    private static string? SelfTestOf(IScanDevice scan, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, channels = 19, n = 3;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 2, batch, time, channels), SelfTest.Values(3, 1, channels, n).exp().neg(),
            SelfTest.Values(4, 1, batch, time, n), SelfTest.Values(5, 1, batch, time, n), SelfTest.Values(6, 1, channels),
            SelfTest.Values(7, 3, batch, time, channels), SelfTest.Values(8, 1, channels), SelfTest.Values(9, 1, batch, channels, n),
        ];
        var steps = new ScanSteps(true, null, null);
        return SelfTest.Difference(
            inputs,
            1e-4,
            x => Fused(scan, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null),
            x => Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null),
            device);
    }
}
