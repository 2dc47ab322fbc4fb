using System.Runtime.CompilerServices;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class SelectiveScan
{
    /// <summary>
    /// True where the SIMD recurrence can run; otherwise <paramref name="reason"/> says why not. It covers float32 on CPU with B and C
    /// shared by all channels.
    /// </summary>
    internal static bool CanRunOnCpu(Tensor u, bool channelsShareMatrices, bool packed, out string reason)
    {
        reason = (KernelDispatcher.ReferenceOnly, u.device_type, u.dtype, channelsShareMatrices, packed) switch
        {
            (true, _, _, _, _) => "HYBRID_KERNELS=reference",
            (_, not DeviceType.CPU, _, _, _) => $"the tensors are on {u.device_type}",
            (_, _, not ScalarType.Float32, _, _) => $"the tensors are {u.dtype}",
            (_, _, _, false, _) => "B or C differs between channels",
            (_, _, _, _, true) => "rows are packed",
            _ => "",
        };
        return reason.Length == 0;
    }

    /// <summary>
    /// The scan with the recurrence as one SIMD pass over time. Step sizes, skip and gate, which have no factor N, stay tensor operations.
    /// </summary>
    internal static (Tensor Y, Tensor FinalState) Cpu(
        Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? deltaBias, bool deltaSoftplus, Tensor? initialState, Tensor? mask,
        bool stateGradient = true)
    {
        var step = StepSizes(delta, deltaBias, deltaSoftplus, mask);
        var initial = initialState?.contiguous() ?? zeros([u.size(0), A.size(0), A.size(1)], dtype: ScalarType.Float32);
        Tensor[] inputs = [u.contiguous(), step.contiguous(), A.contiguous(), B.contiguous(), C.contiguous(), initial];
        var constant = stateGradient ? null : empty_like(initial);
        var results = Recurrence.apply(constant is null ? inputs : [.. inputs, constant]);
        var y = D is null ? results[0] : results[0].addcmul(u, D, 1);
        return (z is null ? y : y * z.silu(), constant ?? results[1]);
    }

    /// <summary>
    /// h_t = exp(step_t A) h_(t-1) + step_t u_t B_t, y_t = C_t h_t. The backward pass recomputes the states chunk by chunk from those
    /// kept at chunk boundaries, so that [B, T, E, N] is never stored. The final state is the second output, or, where a seventh argument
    /// is given to hold it, a constant: TorchSharp never takes an output without gradient out of its count of tensors.
    /// </summary>
    private sealed class Recurrence : autograd.MultiTensorFunction<Recurrence>
    {
        public override string Name => "SelectiveScanRecurrence";

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var inputs = vars.Take(6).Cast<Tensor>().ToArray();
            var constant = vars.Length > 6 ? (Tensor)vars[6] : null;
            var sizes = new ScanSizes(inputs[0].shape, inputs[2].size(1));
            var y = empty([sizes.Batch, sizes.Time, sizes.Channels], dtype: ScalarType.Float32);
            var final = constant ?? empty([sizes.Batch, sizes.Channels, sizes.StateSize], dtype: ScalarType.Float32);
            var boundaries = empty(sizes.BoundaryCount, dtype: ScalarType.Float32);
            ScanOnCpu.Forward(sizes, inputs, y, final, boundaries);
            ctx.save_for_backward([.. inputs, boundaries]);

            // TorchSharp would make the zeros from tensors of the caller's scope, which may be gone by then.
            ctx.set_materialize_grads(false);
            return constant is null ? [y, final] : [y];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> grad_outputs)
        {
            using var scope = NewDisposeScope();
            var saved = ctx.get_saved_variables();
            var sizes = new ScanSizes(saved[0].shape, saved[2].size(1));
            var gradients = ScanOnCpu.Backward(
                sizes, [.. saved.Take(6)], saved[6], OrZeros(grad_outputs[0], saved[0]), grad_outputs.Count == 1 ? zeros_like(saved[5]) : OrZeros(grad_outputs[1], saved[5]));
            var received = gradients.Select(gradient => gradient.MoveToOuterDisposeScope());
            return [.. grad_outputs.Count == 1 ? received.Append(null!) : received];

            static Tensor OrZeros(Tensor gradient, Tensor like) => gradient.IsInvalid ? zeros_like(like) : gradient.contiguous();
        }
    }
}

/// <summary>Sizes of a scan, and how it is cut into work: channels into groups of 128, time into chunks of 32 steps.</summary>
internal readonly struct ScanSizes
{
    public const int ChunkSteps = 32;
    public const int GroupChannels = 128;

    public ScanSizes(long[] input, long stateSize)
    {
        (Batch, Time, Channels) = ((int)input[0], (int)input[1], (int)input[2]);
        StateSize = (int)stateSize;
        Chunks = (Time + ChunkSteps - 1) / ChunkSteps;
        Groups = (Channels + GroupChannels - 1) / GroupChannels;
    }

    public int Batch { get; }

    public int Time { get; }

    public int Channels { get; }

    public int StateSize { get; }

    public int Chunks { get; }

    public int Groups { get; }

    /// <summary>Floats of one group's states at chunk boundaries: [chunks, blocks, N, lanes], padded to whole groups.</summary>
    public long BoundaryStride => (long)Chunks * StateSize * GroupChannels;

    public long BoundaryCount => BoundaryStride * Groups * Batch;
}
