using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Rotary position embedding (Su et al., arXiv 2104.09864) by given angles, in the half-split pairing: of the first R channels, i turns with
/// i + R/2; the others are left alone. Float32 on CPU; the gradient is the rotation back.
/// </summary>
internal static unsafe class Rotation
{
    /// <summary>True where the kernel can run. Otherwise the dispatcher logs why not.</summary>
    /// <param name="x">What turns.</param>
    /// <param name="angles">Cosine and sine; null where they are the caller's own, made for the kernel.</param>
    public static bool CanRun(Tensor x, (Tensor Cos, Tensor Sin)? angles = null)
    {
        if (LaneTasks.CanRunFloat32(out var reason, ("x", x), ("cos", angles?.Cos), ("sin", angles?.Sin)))
        {
            var areLearned = is_grad_enabled() && angles is var (cos, sin) && (cos.requires_grad || sin.requires_grad);
            reason = areLearned ? "the angles are learned" : "";
        }

        if (reason.Length == 0 && KernelDispatcher.Agrees(nameof(Rotation), Compare, out reason))
        {
            return true;
        }

        KernelDispatcher.Refused(nameof(Rotation), reason);
        return false;
    }

    /// <summary>The self-test: result and gradient against tensor operations, angles that heads share, channels that do not turn.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        const long half = 19, width = (2 * half) + 3;
        var (x, turns) = (SelfTest.Values(1, 1, 2, 3, 5, width), SelfTest.Values(2, 9, 2, 1, 5, half));
        return SelfTest.Difference([x], 1e-5, leaves => [Apply(leaves[0], Angles(leaves[0].dtype))], leaves => [Reference(leaves[0], Angles(leaves[0].dtype))]);

        (Tensor Cos, Tensor Sin) Angles(ScalarType dtype) => (turns.cos().to_type(dtype), turns.sin().to_type(dtype));
    }

    /// <summary>The rotation in plain tensor operations, on any device and in the dtype of <paramref name="x"/>.</summary>
    /// <param name="x">[B, H, T, K].</param>
    /// <param name="angles">Cosine and sine, each [B or 1, H or 1, T, R/2].</param>
    /// <returns>[B, H, T, K], in the current dispose scope.</returns>
    public static Tensor Reference(Tensor x, (Tensor Cos, Tensor Sin) angles)
    {
        using var scope = NewDisposeScope();
        var half = angles.Cos.size(-1);
        var (cos, sin) = (angles.Cos.to_type(x.dtype), angles.Sin.to_type(x.dtype));
        var first = x.narrow(-1, 0, half);
        var second = x.narrow(-1, half, half);
        var turned = new List<Tensor> { (first * cos) - (second * sin), (second * cos) + (first * sin) };
        var rest = x.size(-1) - (2 * half);
        if (rest > 0)
        {
            turned.Add(x.narrow(-1, 2 * half, rest));
        }

        return cat(turned, -1).MoveToOuterDisposeScope();
    }

    /// <summary>Turns.</summary>
    /// <param name="x">[B, H, T, K].</param>
    /// <param name="angles">Cosine and sine, each [B or 1, H or 1, T, R/2].</param>
    /// <returns>[B, H, T, K], in the current dispose scope.</returns>
    public static Tensor Apply(Tensor x, (Tensor Cos, Tensor Sin) angles) => Apply(x, angles, inverse: false);

    /// <summary>Turns a tensor that nobody else reads and autograd does not record, where it is.</summary>
    /// <param name="x">[B, H, T, K], its last dimension contiguous.</param>
    /// <param name="angles">Cosine and sine, each [B or 1, H or 1, T, R/2].</param>
    public static void ApplyInPlace(Tensor x, (Tensor Cos, Tensor Sin) angles)
    {
        using var scope = NewDisposeScope();
        Run(x, angles.Cos, angles.Sin, inverse: false, x);
    }

    private static Tensor Apply(Tensor x, (Tensor Cos, Tensor Sin) angles, bool inverse)
    {
        using var scope = NewDisposeScope();
        var y = is_grad_enabled() && x.requires_grad
            ? Turn.apply(x, angles.Cos, angles.Sin, inverse)
            : Forward(x, angles.Cos, angles.Sin, inverse);
        return y.MoveToOuterDisposeScope();
    }

    private static Tensor Forward(Tensor x, Tensor cos, Tensor sin, bool inverse)
    {
        using var scope = NewDisposeScope();
        var y = empty(x.shape, dtype: ScalarType.Float32);
        Run(Adjacent(x), cos, sin, inverse, y);
        return y.MoveToOuterDisposeScope();
    }

    private static void Run(Tensor x, Tensor cos, Tensor sin, bool inverse, Tensor y)
    {
        var shape = x.shape;
        (cos, sin) = (Adjacent(cos), Adjacent(sin));
        var sizes = new RotationSizes
        {
            Input = (float*)TensorMemory.Address(x),
            Output = (float*)TensorMemory.Address(y),
            Cos = (float*)TensorMemory.Address(cos),
            Sin = (float*)TensorMemory.Address(sin),
            InputStrides = Strides(x),
            OutputStrides = Strides(y),
            CosStrides = Strides(cos),
            SinStrides = Strides(sin),
            Vectors = shape[0] * shape[1] * shape[2],
            Heads = (int)shape[1],
            Time = (int)shape[2],
            Width = (int)shape[3],
            Half = (int)cos.size(-1),
            Inverse = inverse,
        };
        LaneWidth.Run(new Kernel(sizes), sizes.Half);
        TensorMemory.KeepAlive([x, cos, sin, y]);
    }

    /// <summary>The tensor itself where the elements of its last dimension are next to each other, else a copy.</summary>
    private static Tensor Adjacent(Tensor tensor) => tensor.stride()[3] == 1 ? tensor : tensor.contiguous();

    /// <summary>Elements between rows, heads and tokens, none along a dimension of one.</summary>
    private static (long Row, long Head, long Token) Strides(Tensor tensor)
    {
        var (shape, strides) = (tensor.shape, tensor.stride());
        return (Stride(0), Stride(1), Stride(2));

        long Stride(int dimension) => shape[dimension] == 1 ? 0 : strides[dimension];
    }

    private sealed class Turn : autograd.SingleTensorFunction<Turn>
    {
        private const string InverseKey = "inverse";

        public override string Name => nameof(Rotation);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (x, cos, sin, inverse) = ((Tensor)vars[0], (Tensor)vars[1], (Tensor)vars[2], (bool)vars[3]);
            ctx.save_for_backward([cos, sin]);
            ctx.save_data(InverseKey, inverse);
            ctx.set_materialize_grads(false);
            return Forward(x, cos, sin, inverse);
        }

        /// <summary>A rotation too, which is recorded where second derivatives are wanted.</summary>
        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            if (grad_output.IsInvalid)
            {
                return [null!, null!, null!, null!];
            }

            using var scope = NewDisposeScope();
            var saved = ctx.get_saved_variables();
            var gradient = Apply(grad_output, (saved[0], saved[1]), !(bool)ctx.get_data(InverseKey));
            return [gradient.MoveToOuterDisposeScope(), null!, null!, null!];
        }
    }

    private readonly struct Kernel(RotationSizes sizes) : ILaneCode
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane> => WorkerTeam.Run(new RotationKernel<TLane>(sizes), sizes.Parts);
    }
}
