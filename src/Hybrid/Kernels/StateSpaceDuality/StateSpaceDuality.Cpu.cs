using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class StateSpaceDuality
{
    /// <summary>The SIMD kernel.</summary>
    internal static CpuKernel Simd { get; } = new("StateSpaceDuality.Cpu", CpuSelfTest);

    /// <summary>The chunked matrix form with all of a chunk in the cache, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dtBias, ScanSteps steps, Tensor? initialState, Tensor? mask,
        Tensor? restart, bool stateGradient = true)
    {
        var tensors = new DualityTensors(
            Last(x), Last(dt), Whole(A)!, Last(B), Last(C), Whole(D), z is null ? null : Last(z), Whole(dtBias), Whole(initialState),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous(), steps);
        var (y, final) = RecordedKernel.Run(new Recurrence(steps), tensors.All, stateGradient ? 1 : 0);
        return (y.to_type(x.dtype), final[0]);

        static Tensor Last(Tensor tensor) => RowView.Of(tensor.to_type(ScalarType.Float32));

        static Tensor? Whole(Tensor? tensor) => tensor?.to_type(ScalarType.Float32).contiguous();
    }

    /// <summary>The recurrence with a backward pass that keeps nothing but the inputs, in the order of <see cref="DualityTensors"/>.</summary>
    private sealed record Recurrence(ScanSteps Steps) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var x = DualityTensors.From(inputs, Steps);
            var shape = x.X.shape;
            var final = empty([shape[0], shape[2], shape[3], x.B.size(3)], dtype: ScalarType.Float32);
            return (DualityOnCpu.Forward(x, final), [final], null);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var x = DualityTensors.From(inputs, Steps);
            return DualityOnCpu.Backward(
                x, gradY is null ? zeros(x.X.shape, dtype: ScalarType.Float32) : RowView.Of(gradY), gradFinal.ElementAtOrDefault(0)?.contiguous());
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs)
        {
            var x = DualityTensors.From(inputs, Steps);
            var (y, state) = StateSpaceDuality.Reference(
                x.X, x.Dt, x.A, x.B, x.C, x.D, x.Z, x.Bias, Steps.Softplus, Steps.Min, Steps.Max, x.Initial, x.Mask, x.Restart, DefaultChunkSize);
            return [y, state];
        }
    }

    private static string? CpuSelfTest() =>
        SelfTestOf((x, steps) => Cpu(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null), CPU);

    /// <summary>The self-test: results and gradients of a small ragged case with everything in it, against the reference in float64.</summary>
    private static string? SelfTestOf(Func<Tensor[], ScanSteps, (Tensor Y, Tensor FinalState)> kernel, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, heads = 4, width = 19, groups = 2, n = 5;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, heads, width), SelfTest.Values(2, 2, batch, time, heads), SelfTest.Values(3, 1, heads).exp().neg(),
            SelfTest.Values(4, 1, batch, time, groups, n), SelfTest.Values(5, 1, batch, time, groups, n), SelfTest.Values(6, 1, heads, width),
            SelfTest.Values(7, 3, batch, time, heads, width), SelfTest.Values(8, 1, heads), SelfTest.Values(9, 1, batch, heads, width, n),
        ];
        var steps = new ScanSteps(true, null, null);
        return SelfTest.Difference(
            inputs,
            1e-4,
            x => kernel(x, steps),
            x => Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], true, null, null, x[8], null, null, DefaultChunkSize),
            device);
    }
}
