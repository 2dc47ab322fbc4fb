using System.Runtime.Intrinsics;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The root-mean-square norm <c>y = x / sqrt(mean(x^2) + eps) * w</c> over the last dimension (Zhang and Sennrich, arXiv 1910.07467): one
/// pass forward and one backward over the rows, which keep nothing but x. Float32 on CPU.
/// </summary>
internal static unsafe class RootMeanSquare
{
    /// <summary>True where the kernel can run. Otherwise the dispatcher logs why not.</summary>
    public static bool CanRun(Tensor x, Tensor weight)
    {
        if (LaneTasks.CanRunFloat32(out var reason, ("x", x), ("weight", weight)) && KernelDispatcher.Agrees(nameof(RootMeanSquare), Compare, out reason))
        {
            return true;
        }

        KernelDispatcher.Refused(nameof(RootMeanSquare), reason);
        return false;
    }

    /// <summary>The self-test: output and gradients against tensor operations.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        const double epsilon = 0.1;
        Tensor[] inputs = [SelfTest.Values(1, 2, 3, 37), SelfTest.Values(2, 1, 37)];
        var upstream = SelfTest.Values(3, 1, 3, 37);
        var fast = Results(ScalarType.Float32, x => Normalisation.apply(x[0], x[1], epsilon));
        var reference = Results(ScalarType.Float64, x => Reference(x[0], x[1], epsilon));
        return SelfTest.Compare(reference, fast, 1e-5);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], Tensor> norm)
        {
            var leaves = inputs.Select(input => input.to_type(dtype).clone().requires_grad_(true)).ToArray();
            var y = norm(leaves);
            (y * upstream.to_type(dtype)).sum().backward();
            return [y.detach(), .. leaves.Select(leaf => leaf.grad!)];
        }
    }

    /// <summary>Normalises.</summary>
    /// <param name="x">[..., width].</param>
    /// <param name="weight">w [width].</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <returns>The shape of <paramref name="x"/>, in the current dispose scope.</returns>
    public static Tensor Apply(Tensor x, Tensor weight, double epsilon)
    {
        using var inputCopy = TensorMemory.CopyUnlessContiguous(x);
        using var weightCopy = TensorMemory.CopyUnlessContiguous(weight);
        var (input, scale) = (inputCopy ?? x, weightCopy ?? weight);
        return is_grad_enabled() ? Normalisation.apply(input, scale, epsilon) : Forward(input, scale, epsilon);
    }

    /// <summary>The norm from plain tensor operations.</summary>
    private static Tensor Reference(Tensor x, Tensor weight, double epsilon) =>
        x * (x.square().mean([-1], keepdim: true) + epsilon).rsqrt() * weight;

    private static Tensor Forward(Tensor x, Tensor weight, double epsilon)
    {
        var y = empty_like(x);
        var sizes = Sizes(x, weight, epsilon);
        sizes.Output = Address(y);
        if (Vector512.IsHardwareAccelerated)
        {
            WorkerTeam.Run(new RootMeanSquareForward<Lane512>(sizes), sizes.Parts);
        }
        else if (Vector256.IsHardwareAccelerated)
        {
            WorkerTeam.Run(new RootMeanSquareForward<Lane256>(sizes), sizes.Parts);
        }
        else
        {
            WorkerTeam.Run(new RootMeanSquareForward<Lane128>(sizes), sizes.Parts);
        }

        KeepAlive(x, weight, y, y);
        return y;
    }

    /// <summary>Gradients of x and w. Parts sum the latter each for itself; the parts are added up in a fixed order.</summary>
    private static Tensor?[] Backward(Tensor x, Tensor weight, double epsilon, Tensor gradient)
    {
        var sizes = Sizes(x, weight, epsilon);
        var (gradInput, parts) = (empty_like(x), empty([sizes.Parts, sizes.Width], dtype: ScalarType.Float32));
        sizes.GradOutput = Address(gradient);
        sizes.GradInput = Address(gradInput);
        sizes.GradWeight = Address(parts);
        if (Vector512.IsHardwareAccelerated)
        {
            WorkerTeam.Run(new RootMeanSquareBackward<Lane512>(sizes), sizes.Parts);
        }
        else if (Vector256.IsHardwareAccelerated)
        {
            WorkerTeam.Run(new RootMeanSquareBackward<Lane256>(sizes), sizes.Parts);
        }
        else
        {
            WorkerTeam.Run(new RootMeanSquareBackward<Lane128>(sizes), sizes.Parts);
        }

        KeepAlive(x, weight, gradient, gradInput);
        return [gradInput, parts.sum(dim: 0)];
    }

    private static RootMeanSquareSizes Sizes(Tensor x, Tensor weight, double epsilon)
    {
        var width = weight.size(0);
        return new RootMeanSquareSizes
        {
            Input = Address(x),
            Weight = Address(weight),
            Rows = x.numel() / width,
            Width = (int)width,
            Epsilon = (float)epsilon,
        };
    }

    private static float* Address(Tensor tensor) => (float*)TensorMemory.Address(tensor);

    private static void KeepAlive(Tensor a, Tensor b, Tensor c, Tensor d)
    {
        GC.KeepAlive(a);
        GC.KeepAlive(b);
        GC.KeepAlive(c);
        GC.KeepAlive(d);
    }

    private sealed class Normalisation : autograd.SingleTensorFunction<Normalisation>
    {
        private const string EpsilonKey = "epsilon";

        public override string Name => nameof(RootMeanSquare);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (x, weight, epsilon) = ((Tensor)vars[0], (Tensor)vars[1], (double)vars[2]);
            ctx.save_for_backward([x, weight]);
            ctx.save_data(EpsilonKey, epsilon);
            ctx.set_materialize_grads(false);
            return Forward(x, weight, epsilon);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            if (grad_output.IsInvalid)
            {
                return [null!, null!, null!];
            }

            using var scope = NewDisposeScope();
            var saved = ctx.get_saved_variables();
            var epsilon = (double)ctx.get_data(EpsilonKey);
            var gradients = RecordedGradient.IsWanted
                ? RecordedGradient.Of(x => [Reference(x[0]!, x[1]!, epsilon)], saved, [grad_output])
                : Backward(saved[0], saved[1], epsilon, grad_output.contiguous());
            return [gradients[0]?.MoveToOuterDisposeScope()!, gradients[1]?.MoveToOuterDisposeScope()!, null!];
        }
    }
}
