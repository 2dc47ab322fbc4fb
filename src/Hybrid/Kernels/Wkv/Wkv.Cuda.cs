using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class Wkv
{
    /// <summary>The CUDA kernels.</summary>
    internal static CudaKernel<WkvOnCuda> OnCuda { get; } = new("Wkv.Cuda", runtime => new(runtime), CudaSelfTest);

    /// <summary>Both forms in kernels over chunks of time, in float32 whatever the inputs are.</summary>
    internal static (Tensor Y, WkvState FinalState) Cuda(
        WkvOnCuda kernel, WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, Tensor? receptance, WkvState? initialState, Tensor? mask,
        Tensor? restart, bool stateGradient = true)
    {
        var equal = key.dtype == value.dtype && (receptance is null || receptance.dtype == key.dtype);
        var rows = equal && CudaProgram.Holds(key.dtype) ? key.dtype : ScalarType.Float32;
        var (sums, maximum) = InitialState(initialState?.Numerator, initialState?.Denominator, initialState?.Maximum, key, ScalarType.Float32);
        var (numerator, denominator) = initialState is null ? ((Tensor?)null, (Tensor?)null) : (sums.select(1, 0).contiguous(), sums.select(1, 1).contiguous());
        var x = new WkvTensors(
            LogDecay(form, decay.to_type(ScalarType.Float32)).contiguous(), bonus.to_type(ScalarType.Float32).contiguous(),
            RowView.Of(key.to_type(rows)), RowView.Of(value.to_type(rows)), receptance is null ? null : RowView.Of(receptance.to_type(rows)), numerator,
            denominator, initialState is null ? null : maximum.contiguous(),
            mask?.to_type(ScalarType.Bool).contiguous(), restart?.to_type(ScalarType.Bool).contiguous());
        var (y, final) = RecordedKernel.Run(new Mean(kernel), x.All, stateGradient ? 2 : 0);
        return (y.to_type(key.dtype), new(final[0], final[1], final[2]));
    }

    /// <summary>
    /// The mean with a backward pass that keeps the inputs, in the order of <see cref="WkvTensors"/>, and some states. Its states are numerator,
    /// denominator and maximum, which is a constant to gradients.
    /// </summary>
    private sealed record Mean(WkvOnCuda Kernel) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var (y, final, kept) = Kernel.Forward(WkvTensors.From(inputs), keep);
            return (y, [final.Numerator, final.Denominator, final.Maximum], kept);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var x = WkvTensors.From(inputs);
            var (numerator, denominator) = (gradFinal.ElementAtOrDefault(0)?.contiguous(), gradFinal.ElementAtOrDefault(1)?.contiguous());
            return Kernel.Backward(
                x, kept!, gradY is null ? zeros_like(x.Key).contiguous() : RowView.Of(gradY), numerator ?? Zeros(denominator), denominator ?? Zeros(numerator));

            static Tensor? Zeros(Tensor? other) => other is null ? null : zeros_like(other);
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs)
        {
            var x = WkvTensors.From(inputs);
            var state = x.Numerator is null ? (WkvState?)null : new WkvState(x.Numerator, x.Denominator!, x.Maximum!);
            var (y, final) = Wkv.Reference(x.LogDecay.Dimensions == 3, x.LogDecay, x.Bonus, x.Key, x.Value, x.Receptance, state, x.Mask, x.Restart);
            return [y, final.Numerator, final.Denominator];
        }
    }

    /// <summary>The self-test: results and gradients of both forms, small and ragged, against the reference in float64.</summary>
    private static string? CudaSelfTest(WkvOnCuda kernel, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 135, channels = 19;
        return Difference(WkvForm.DataDependent, SelfTest.Values(1, 2, batch, time, channels)) ?? Difference(WkvForm.Rwkv4, SelfTest.Values(1, 2, channels));

        string? Difference(WkvForm form, Tensor decay)
        {
            Tensor[] inputs =
            [
                decay, SelfTest.Values(2, 1, channels), SelfTest.Values(3, 3, batch, time, channels), SelfTest.Values(4, 1, batch, time, channels),
                SelfTest.Values(5, 2, batch, channels), SelfTest.Values(6, 1, batch, channels).exp(), SelfTest.Values(7, 1, batch, channels),
                SelfTest.Values(8, 2, batch, time, channels),
            ];
            return SelfTest.Difference(
                inputs,
                1e-4,
                x => Differentiable(Cuda(kernel, form, x[0], x[1], x[2], x[3], x[7], new(x[4], x[5], x[6]), null, null)),
                x => Differentiable(Reference(form, x[0], x[1], x[2], x[3], x[7], new(x[4], x[5], x[6]), null, null)),
                device);
        }
    }
}
