using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>A recurrence with or without gates in the kernels of linear_recurrence.cu, in float32 whatever the inputs are.</summary>
internal static class CudaRecurrence
{
    /// <summary>Runs a recurrence over time.</summary>
    /// <param name="kernel">Where.</param>
    /// <param name="gates">What makes inputs and decays.</param>
    /// <param name="x">The tensors, of any dtype and layout, but that gates block by block are contiguous.</param>
    /// <param name="stateGradient">False where no gradient goes through the final state.</param>
    /// <param name="reference">The same from plain tensor operations, for derivatives of gradients.</param>
    /// <returns>Output [B, T, E] in the dtype of the input, and the state after the last step [B, E].</returns>
    public static (Tensor Y, Tensor FinalState) Run(
        RecurrenceOnCuda kernel, RecurrenceGates gates, RecurrenceTensors x, bool stateGradient, Func<RecurrenceTensors, (Tensor Y, Tensor State)> reference)
    {
        var dtype = x.X.dtype;
        var rows = CudaProgram.Holds(dtype) && (x.Gates is null || x.Gates.dtype == dtype) ? dtype : ScalarType.Float32;
        var tensors = new RecurrenceTensors(Rows(x.X)!, Rows(x.Gates), Whole(x.Constants), Whole(x.Initial), Flags(x.Mask), Flags(x.Restart));
        var (y, final) = RecordedKernel.Run(new Recurrence(kernel, gates, reference), tensors.All, stateGradient ? 1 : 0);
        return (y.to_type(dtype), final[0]);

        Tensor? Rows(Tensor? tensor) => tensor is null ? null : RowView.Of(tensor.to_type(rows));

        static Tensor? Whole(Tensor? tensor) => tensor?.to_type(ScalarType.Float32).contiguous();

        static Tensor? Flags(Tensor? tensor) => tensor?.to_type(ScalarType.Bool).contiguous();
    }

    /// <summary>The recurrence with a backward pass that keeps the inputs, in the order of <see cref="RecurrenceTensors"/>, and the states.</summary>
    private sealed record Recurrence(RecurrenceOnCuda Kernel, RecurrenceGates Gates, Func<RecurrenceTensors, (Tensor Y, Tensor State)> Composed)
        : IRecordedKernel
    {
        public (Tensor Y, Tensor[] Final, Tensor? Kept) Forward(IReadOnlyList<Tensor?> inputs, bool keep)
        {
            var (y, final, states) = Kernel.Forward(RecurrenceTensors.From(inputs), Gates, keep);

            // The states may be the output, whose history leads here.
            return (y, [final], states?.detach());
        }

        public Tensor?[] Backward(IReadOnlyList<Tensor?> inputs, Tensor? kept, Tensor? gradY, IReadOnlyList<Tensor?> gradFinal)
        {
            var x = RecurrenceTensors.From(inputs);
            var upstream = gradY is null ? zeros(kept!.shape, dtype: x.X.dtype, device: x.X.device) : RowView.Of(gradY);
            return Kernel.Backward(x, Gates, kept!, upstream, gradFinal.ElementAtOrDefault(0)?.contiguous());
        }

        public IReadOnlyList<Tensor> Reference(IReadOnlyList<Tensor?> inputs)
        {
            var (y, state) = Composed(RecurrenceTensors.From(inputs));
            return [y, state];
        }
    }
}
