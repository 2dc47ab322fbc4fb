using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class StateSpaceDuality
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<DeltaOnCuda> OnCuda { get; } = new("StateSpaceDuality.Cuda", Kernel, CudaSelfTest);

    /// <summary>The kernels of a device.</summary>
    internal static DeltaOnCuda Kernel(CudaRuntime runtime) => new(runtime, corrects: false);

    /// <summary>
    /// Step by step with the state in registers, in float32 whatever the inputs are: the recurrence is the gated delta rule without its correction,
    /// with keys B, queries C and values x of strength dt. Step sizes, which are one a head, and the skip and the gate are tensor operations around it.
    /// </summary>
    internal static (Tensor Y, Tensor FinalState) Cuda(
        DeltaOnCuda kernel, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dtBias, ScanSteps steps, Tensor? initialState,
        Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var step = StepSizes(Single(dt), dtBias is null ? null : Single(dtBias), steps.Softplus, steps.Min, steps.Max, mask);
        var rows = kernel.RowType([x, B, C]);
        Tensor?[] inputs =
        [
            x.to_type(rows), RowView.Of(step), RowView.Of(step * Single(A)), B.to_type(rows), C.to_type(rows), initialState?.to_type(ScalarType.Float32),
            restart?.to_type(ScalarType.Bool).contiguous(),
        ];
        var (y, final) = RecordedKernel.Run(new DrivenRecurrence(kernel), inputs, stateGradient ? 1 : 0);
        return (SkipAndGate(y, Single(x), D, z).to_type(x.dtype), final[0]);
    }

    private static Tensor Single(Tensor tensor) => tensor.to_type(ScalarType.Float32);

    private static string? CudaSelfTest(DeltaOnCuda kernel, Device device) => SelfTestOf(
        (x, steps) => Cuda(kernel, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], null, null), device);

    /// <summary>
    /// <c>S_t = exp(a_t) S_(t-1) + s_t x_t B_t^T</c>, <c>y_t = S_t C_t</c> of x, s, a, B, C, the initial state and restarts, in this order, with a backward
    /// pass that keeps nothing else.
    /// </summary>
    private sealed record DrivenRecurrence(DeltaOnCuda Kernel) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var x = Rule(inputs);
            var shape = x.V.shape;
            var final = empty([shape[0], shape[2], shape[3], x.K.size(3)], dtype: ScalarType.Float32, device: x.V.device);
            var (y, kept) = Kernel.Forward(x, final.transpose(2, 3), keep);
            return (y, [final], kept);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var x = Rule(inputs);
            var upstream = gradY ?? zeros(x.V.shape, dtype: ScalarType.Float32, device: x.V.device);
            var gradients = Kernel.Backward(x, kept, upstream, gradFinal.ElementAtOrDefault(0)?.transpose(2, 3));
            return [gradients[2], gradients[3], gradients[4], gradients[1], gradients[0], gradients[5]?.transpose(2, 3), null];
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs)
        {
            var (y, state) = Driven(
                Single(inputs[0]!), inputs[1]!, inputs[2]!, Single(inputs[3]!), Single(inputs[4]!), inputs[5], inputs[6], DefaultChunkSize);
            return [y, state];
        }

        /// <summary>As tensors of the rule, whose states are [K, V].</summary>
        private static DeltaTensors Rule(IReadOnlyList<Tensor?> inputs) => new(
            inputs[4]!, inputs[3]!, inputs[0]!, inputs[1]!, inputs[2]!, inputs[5]?.transpose(2, 3), null, inputs[6], new DeltaKeys(1, false));
    }
}
