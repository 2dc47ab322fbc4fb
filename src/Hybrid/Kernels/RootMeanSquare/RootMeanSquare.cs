using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>Where the gate of a gated norm comes in: GATE in root_mean_square.cu.</summary>
internal enum GateOrder
{
    /// <summary>There is none.</summary>
    None,

    /// <summary>Its input is gated: RMS(x SiLU(z)) w.</summary>
    BeforeNorm,

    /// <summary>Its result is gated: RMS(x) w SiLU(z).</summary>
    AfterNorm,
}

/// <summary>What a norm does besides its tensors.</summary>
/// <param name="Epsilon">Added to the mean square.</param>
/// <param name="Gate">Where the gate comes in.</param>
/// <param name="Groups">Groups of neighbouring channels, each normalised alone; a divisor of the width.</param>
/// <param name="RoundNormal">On CUDA: true to round the normal value to the dtype of x before it is scaled.</param>
/// <param name="WeightShift">On CUDA: added to the weight.</param>
internal sealed record NormForm(double Epsilon, GateOrder Gate = GateOrder.None, long Groups = 1, bool RoundNormal = false, double WeightShift = 0);

/// <summary>
/// The root-mean-square norm <c>RMS(x) w = x / sqrt(mean(x^2) + eps) * w</c> over the last dimension or groups of it (Zhang and Sennrich,
/// arXiv 1910.07467), plain or with a gate z as in Mamba-2 (Dao and Gu, arXiv 2405.21060): one pass forward and one backward over the rows,
/// which keep nothing but the inputs. Float32 on CPU.
/// </summary>
internal static unsafe class RootMeanSquare
{
    private static readonly CpuKernel Simd = new(nameof(RootMeanSquare), Compare);

    /// <summary>True where the kernel can run. Otherwise the dispatcher logs why not.</summary>
    /// <param name="x">The input.</param>
    /// <param name="weight">The weight, or null.</param>
    /// <param name="gate">The gate, or null.</param>
    public static bool CanRun(Tensor x, Tensor? weight, Tensor? gate = null) => Simd.CanRunFloat32(("x", x), ("weight", weight), ("gate", gate));

    /// <summary>The self-test: output and gradients of each form against tensor operations.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        const long rows = 3, width = 74;
        Tensor[] inputs = [SelfTest.Values(1, 2, rows, width), SelfTest.Values(2, 1, width), SelfTest.Values(4, 3, rows, width)];
        NormForm[] forms = [new(0.1), new(0.1, GateOrder.BeforeNorm), new(0.1, GateOrder.AfterNorm, 2)];
        return forms.Select(form => SelfTest.Difference(
            [.. inputs.Take(form.Gate == GateOrder.None ? 2 : 3)],
            1e-5,
            x => [Apply(x[0], x[1], form, x.ElementAtOrDefault(2))],
            x => [Reference(x[0], x[1], x.ElementAtOrDefault(2), form)])).FirstOrDefault(difference => difference is not null);
    }

    /// <summary>The norm in plain tensor operations, on any device and in the dtype of the inputs.</summary>
    /// <param name="x">[..., width].</param>
    /// <param name="weight">w [width]; null for ones.</param>
    /// <param name="gate">z, like <paramref name="x"/>; null without a gate.</param>
    /// <param name="form">Epsilon, order of the gate, groups.</param>
    /// <returns>The shape of <paramref name="x"/>, in the current dispose scope.</returns>
    public static Tensor Reference(Tensor x, Tensor? weight, Tensor? gate, NormForm form)
    {
        using var scope = NewDisposeScope();
        var factor = gate?.silu();
        var shape = x.shape;
        var u = form.Gate == GateOrder.BeforeNorm ? x * factor! : x;
        var grouped = form.Groups == 1 ? u : u.reshape([.. shape[..^1], form.Groups, shape[^1] / form.Groups]);
        var normal = (grouped * (grouped.square().mean([-1], keepdim: true) + form.Epsilon).rsqrt()).view(shape);
        var scaled = weight is null ? normal : normal * weight;
        return (form.Gate == GateOrder.AfterNorm ? scaled * factor! : scaled).MoveToOuterDisposeScope();
    }

    /// <summary>Normalises.</summary>
    /// <param name="x">[..., width].</param>
    /// <param name="weight">w [width]; null for ones.</param>
    /// <param name="form">Epsilon, order of the gate, groups.</param>
    /// <param name="gate">z, like <paramref name="x"/>; null without a gate.</param>
    /// <param name="buffers">What the result is taken from in a step; null makes it anew. No gradient is recorded with them.</param>
    /// <returns>The shape of <paramref name="x"/>, in the current dispose scope where it is new.</returns>
    public static Tensor Apply(Tensor x, Tensor? weight, NormForm form, Tensor? gate = null, StepBuffers? buffers = null)
    {
        using var inputCopy = StridedRows.CopyUnlessRows(x);
        using var gateCopy = StridedRows.CopyUnlessRows(gate);
        using var weightCopy = weight is null ? ones(x.size(-1)) : TensorMemory.CopyUnlessContiguous(weight);
        var (input, factor, scale) = (inputCopy ?? x, gateCopy ?? gate, weightCopy ?? weight!);
        return buffers is not null || !is_grad_enabled() ? Forward(input, scale, factor, form, buffers)
            : factor is null ? Normalisation.apply(form, input, scale)
            : Normalisation.apply(form, input, scale, factor);
    }

    private static Tensor Forward(Tensor x, Tensor weight, Tensor? gate, NormForm form, StepBuffers? buffers = null)
    {
        var y = buffers?.TakeLike(x) ?? empty(x.shape, dtype: ScalarType.Float32);
        var sizes = Sizes(x, weight, gate, form);
        sizes.Output = Address(y);
        switch (form.Gate)
        {
            case GateOrder.BeforeNorm:
                Forward<GateBeforeNorm>(sizes);
                break;
            case GateOrder.AfterNorm:
                Forward<GateAfterNorm>(sizes);
                break;
            default:
                Forward<NoGate>(sizes);
                break;
        }

        TensorMemory.KeepAlive([x, weight, gate, y]);
        return y;
    }

    /// <summary>Gradients of x, w and z. Parts sum those of w each for itself; the parts are added up in a fixed order.</summary>
    private static Tensor?[] Backward(Tensor x, Tensor weight, Tensor? gate, NormForm form, Tensor gradient)
    {
        var sizes = Sizes(x, weight, gate, form);
        var shape = x.shape;
        var (gradInput, parts) = (empty(shape, dtype: ScalarType.Float32), empty([sizes.Parts, sizes.Width], dtype: ScalarType.Float32));
        var gradGate = gate is null ? null : empty(shape, dtype: ScalarType.Float32);
        sizes.GradOutput = Address(gradient);
        sizes.GradOutputStride = StridedRows.Stride(gradient);
        sizes.GradInput = Address(gradInput);
        sizes.GradGate = gradGate is null ? null : Address(gradGate);
        sizes.GradWeight = Address(parts);
        switch (form.Gate)
        {
            case GateOrder.BeforeNorm:
                Backward<GateBeforeNorm>(sizes);
                break;
            case GateOrder.AfterNorm:
                Backward<GateAfterNorm>(sizes);
                break;
            default:
                Backward<NoGate>(sizes);
                break;
        }

        TensorMemory.KeepAlive([x, weight, gate, gradient, gradInput, gradGate]);
        return [gradInput, parts.sum(dim: 0), gradGate];
    }

    private static void Forward<TGate>(RootMeanSquareSizes sizes)
        where TGate : struct, INormGate => LaneWidth.Run(new ForwardPass<TGate>(sizes));

    private static void Backward<TGate>(RootMeanSquareSizes sizes)
        where TGate : struct, INormGate => LaneWidth.Run(new BackwardPass<TGate>(sizes));

    private static RootMeanSquareSizes Sizes(Tensor x, Tensor weight, Tensor? gate, NormForm form)
    {
        var width = weight.size(0);
        return new RootMeanSquareSizes
        {
            Input = Address(x),
            InputStride = StridedRows.Stride(x),
            Gate = gate is null ? null : Address(gate),
            GateStride = gate is null ? 0 : StridedRows.Stride(gate),
            Weight = Address(weight),
            Rows = x.numel() / width,
            Width = (int)width,
            GroupWidth = (int)(width / form.Groups),
            Epsilon = (float)form.Epsilon,
        };
    }

    private static float* Address(Tensor tensor) => (float*)TensorMemory.Address(tensor);

    private sealed class Normalisation : autograd.SingleTensorFunction<Normalisation>
    {
        public override string Name => nameof(RootMeanSquare);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (form, tensors) = ((NormForm)vars[0], vars[1..].Cast<Tensor>().ToList());
            ctx.save_for_backward(tensors);
            ctx.save_data(nameof(NormForm), form);
            ctx.set_materialize_grads(false);
            return Forward(tensors[0], tensors[1], tensors.ElementAtOrDefault(2), form);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            using var scope = NewDisposeScope();
            var saved = ctx.get_saved_variables();
            if (grad_output.IsInvalid)
            {
                return [null!, .. saved.Select(_ => (Tensor)null!)];
            }

            var form = (NormForm)ctx.get_data(nameof(NormForm));
            var upstream = StridedRows.CopyUnlessRows(grad_output) ?? grad_output;
            var gradients = RecordedGradient.IsWanted
                ? RecordedGradient.Of(x => [Reference(x[0]!, x[1], x.ElementAtOrDefault(2), form)], saved, [grad_output])
                : Backward(saved[0], saved[1], saved.ElementAtOrDefault(2), form, upstream);
            return [null!, .. gradients.Take(saved.Count).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }
    }

    private readonly struct ForwardPass<TGate>(RootMeanSquareSizes sizes) : ILaneCode
        where TGate : struct, INormGate
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane> => WorkerTeam.Run(new RootMeanSquareForward<TLane, TGate>(sizes), sizes.Parts);
    }

    private readonly struct BackwardPass<TGate>(RootMeanSquareSizes sizes) : ILaneCode
        where TGate : struct, INormGate
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane> => WorkerTeam.Run(new RootMeanSquareBackward<TLane, TGate>(sizes), sizes.Parts);
    }
}
