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
        var y = is_grad_enabled() && tensors.All.Any(tensor => tensor?.requires_grad == true)
            ? Recorded.apply([new ConvCall(device, tensors), .. tensors.All.Where(tensor => tensor is not null).Cast<object>()])
            : device.Forward(tensors);
        y = (silu ? y : activation.Apply(y)).to_type(x.dtype);
        if (lengths is null && time >= context)
        {
            // A copy, so that a state does not hold the whole input.
            return (y, x.narrow(1, time - context, context).clone());
        }

        var history = initialState?.to_type(x.dtype) ?? zeros([x.size(0), context, x.size(2)], dtype: x.dtype, device: x.device);
        return (y, LastInputs(cat([history, x], 1), context, time, lengths));
    }

    /// <summary>What the recorded convolution gets besides its tensors, which it needs as arguments of their own.</summary>
    private sealed record ConvCall(IConvDevice Device, ConvTensors Tensors);

    /// <summary>Where a convolution runs, which tensors it has, and whether SiLU follows.</summary>
    private sealed record ConvLayout(IConvDevice Device, bool[] Present, bool Silu);

    private sealed class Recorded : autograd.SingleTensorFunction<Recorded>
    {
        public override string Name => "CausalConv1d";

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (device, tensors) = (ConvCall)vars[0];
            ctx.save_for_backward([.. vars.Skip(1).Cast<Tensor>()]);
            ctx.save_data(nameof(ConvLayout), new ConvLayout(device, [.. tensors.All.Select(tensor => tensor is not null)], tensors.Silu));
            ctx.set_materialize_grads(false);
            return device.Forward(tensors);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            using var scope = NewDisposeScope();
            var layout = (ConvLayout)ctx.get_data(nameof(ConvLayout));
            var saved = ctx.get_saved_variables();
            var next = 0;
            var all = layout.Present.Select(present => present ? saved[next++] : null).ToArray();
            var gradients = RecordedGradient.IsWanted
                ? RecordedGradient.Of(x => [Composed(x, layout.Silu)], all, [grad_output])
                : layout.Device.Backward(
                    new ConvTensors(all[0]!, all[1]!, all[2], all[3], all[4], layout.Silu),
                    grad_output.IsInvalid ? zeros_like(all[0]!).contiguous() : RowView.Of(grad_output));
            return [null!, .. gradients.Where((_, i) => layout.Present[i]).Select(gradient => gradient?.MoveToOuterDisposeScope()!)];
        }
    }

    /// <summary>The output from plain tensor operations, of tensors in the order of <see cref="ConvTensors"/>.</summary>
    private static Tensor Composed(IReadOnlyList<Tensor?> x, bool silu) =>
        Reference(x[0]!, x[1]!, x[2], silu ? Activation.Silu : Activation.Identity, x[3], null, x[4]).Y;

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
        var upstream = SelfTest.Values(5, 1, batch, time, channels).to(device);
        var fast = Results(ScalarType.Float32, x => Fused(convolution, x[0], x[1], x[2], Activation.Silu, x[3], null, null));
        var reference = Results(ScalarType.Float64, x => Reference(x[0], x[1], x[2], Activation.Silu, x[3], null, null));
        return SelfTest.Compare(reference, fast, 1e-5);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor Y, Tensor State)> convolve)
        {
            var x = inputs.Select(input => input.to(device).to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (y, state) = convolve(x);
            ((y * upstream.to_type(dtype)).sum() + state.sum()).backward();
            return [y.detach(), state.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
