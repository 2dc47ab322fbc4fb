using Hybrid.Kernels.Cpu;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class CausalConv1d
{
    /// <summary>The convolution and SiLU in one kernel, in float32 whatever the inputs are; other activations follow.</summary>
    internal static (Tensor Y, Tensor FinalState) Fused(
        IConvDevice device, Tensor x, Tensor weight, Tensor? bias, Activation activation, Tensor? initialState, IReadOnlyList<long>? lengths, Tensor? sequenceIds)
    {
        var (time, context, dtype) = (x.size(1), weight.size(1) - 1, device.RowType(x));
        var silu = activation == Activation.Silu;
        var tensors = new ConvTensors(
            RowView.Of(x.to_type(dtype)), weight.to_type(ScalarType.Float32).contiguous(), bias?.to_type(ScalarType.Float32).contiguous(),
            initialState is null || context == 0 ? null : RowView.Of(initialState.to_type(dtype)),
            sequenceIds?.to_type(ScalarType.Int64).contiguous(), silu);
        var (y, _) = RecordedKernel.Run(new Convolution(device, silu), tensors.All, differentiableStates: 0);
        y = (silu ? y : activation.Apply(y)).to_type(x.dtype);
        if (lengths is null && time >= context)
        {
            // A copy, so that a state does not hold the whole input.
            return (y, x.narrow(1, time - context, context).clone());
        }

        var history = initialState?.to_type(x.dtype) ?? zeros([x.size(0), context, x.size(2)], dtype: x.dtype, device: x.device);
        return (y, LastInputs(cat([history, x], 1), context, time, lengths));
    }

    /// <summary>The convolution with a backward pass that keeps nothing but the inputs, in the order of <see cref="ConvTensors"/>.</summary>
    private sealed record Convolution(IConvDevice Device, bool Silu) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep) => (Device.Forward(Tensors(inputs)), [], null);

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal) =>
            Device.Backward(Tensors(inputs), RowView.Of(gradY!));

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> x) =>
            [CausalConv1d.Reference(x[0]!, x[1]!, x[2], Silu ? Activation.Silu : Activation.Identity, x[3], null, x[4]).Y];

        private ConvTensors Tensors(IReadOnlyList<Tensor?> x) => new(x[0]!, x[1]!, x[2], x[3], x[4], Silu);
    }

    /// <summary>The self-test: results and gradients of a small ragged convolution, against the reference in float64.</summary>
    private static string? SelfTestOf(IConvDevice convolution, Device device)
    {
        using var scope = NewDisposeScope();
        const long batch = 2, time = 35, channels = 19, width = 4;
        Tensor[] inputs =
        [
            SelfTest.Values(1, 1, batch, time, channels), SelfTest.Values(2, 1, channels, width), SelfTest.Values(3, 1, channels),
            SelfTest.Values(4, 1, batch, width - 1, channels),
        ];
        return SelfTest.Difference(
            inputs,
            1e-5,
            x => Fused(convolution, x[0], x[1], x[2], Activation.Silu, x[3], null, null),
            x => Reference(x[0], x[1], x[2], Activation.Silu, x[3], null, null),
            device);
    }
}
