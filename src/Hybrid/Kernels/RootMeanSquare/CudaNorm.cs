using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The root-mean-square norm and its gated forms on CUDA, in float32 whatever the tensors are: one kernel forward and two backward, which keep
/// the inputs and one number a row.
/// </summary>
internal static class CudaNorm
{
    /// <summary>The CUDA kernels. Tensors of a call have one dtype, but for a float32 weight.</summary>
    public static CudaKernel<NormOnCuda> OnCuda { get; } = new("RootMeanSquare.Cuda", runtime => new(runtime), Compare);

    /// <summary>Normalises.</summary>
    /// <param name="norm">Where.</param>
    /// <param name="x">[..., width].</param>
    /// <param name="z">Gate, before its SiLU: the shape of <paramref name="x"/>; null for none.</param>
    /// <param name="weight">[width]; null for none.</param>
    /// <param name="form">What is computed.</param>
    /// <returns>The shape and dtype of <paramref name="x"/>, in the current dispose scope.</returns>
    public static Tensor Apply(NormOnCuda norm, Tensor x, Tensor? z, Tensor? weight, NormForm form)
    {
        using var scope = NewDisposeScope();
        var tensors = new NormTensors(x.contiguous(), z?.to_type(x.dtype).contiguous(), weight?.to_type(ScalarType.Float32).contiguous());
        return RecordedKernel.Run(new Norm(norm, form), [tensors.X, tensors.Weight, tensors.Z], differentiableStates: 0).Y.MoveToOuterDisposeScope();
    }

    /// <summary>The self-test: outputs and gradients of each form against tensor operations, with a width for a warp and one for a block.</summary>
    private static string? Compare(NormOnCuda norm, Device device)
    {
        using var scope = NewDisposeScope();
        return Difference(new(0.1), 37, tensors: 1) ?? Difference(new(0.1, WeightShift: 1), 37, tensors: 2)
            ?? Difference(new(0.1, GateOrder.BeforeNorm, 2), 74, tensors: 3) ?? Difference(new(0.1, GateOrder.AfterNorm), 600, tensors: 3);

        // One tensor is x alone, the second the weight, the third the gate.
        string? Difference(NormForm form, long width, int tensors)
        {
            Tensor[] inputs = [SelfTest.Values(1, 2, 3, width), SelfTest.Values(2, 1, width), SelfTest.Values(3, 2, 3, width)];
            var difference = SelfTest.Difference(
                [.. inputs.Take(tensors)],
                1e-5,
                x => [Apply(norm, x[0], x.ElementAtOrDefault(2), x.ElementAtOrDefault(1), form)],
                x => [Composed(x[0], x.ElementAtOrDefault(2), x.ElementAtOrDefault(1), form)],
                device);
            return difference is null ? null : $"{form}: {difference}";
        }
    }

    /// <summary>The same from tensor operations, in the precision of the weight, or in float32 at least.</summary>
    internal static Tensor Composed(Tensor x, Tensor? z, Tensor? weight, NormForm form)
    {
        var dtype = weight?.dtype ?? (x.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32);
        var factor = form.WeightShift == 0 ? weight : weight! + form.WeightShift;
        return RootMeanSquare.Reference(x.to_type(dtype), factor, z?.to_type(dtype), form).to_type(x.dtype);
    }

    /// <summary>The norm of x, its weight and its gate, with a backward pass that keeps them and one number a row.</summary>
    private sealed record Norm(NormOnCuda Device, NormForm Form) : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var (y, inverse) = Device.Forward(Tensors(inputs), Form, keep);
            return (y, [], inverse);
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var (x, z, weight) = Device.Backward(Tensors(inputs), Form, kept!, gradY!.contiguous());
            return [x, weight, z];
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs) => [Composed(inputs[0]!, inputs[2], inputs[1], Form)];

        private static NormTensors Tensors(IReadOnlyList<Tensor?> inputs) => new(inputs[0]!, inputs[2], inputs[1]);
    }
}
