using System.Numerics;
using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct NormArguments of root_mean_square.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct NormArguments
{
    public nint X;
    public nint Z;
    public nint Weight;
    public nint Y;
    public nint XGradient;
    public nint ZGradient;
    public nint Inverse;
    public nint WeightGradient;
    public long Rows;
    public long Width;
    public long Groups;
    public long Parts;
    public float Epsilon;
    public float WeightShift;
}

/// <summary>The tensors of a norm: x and its gate [..., width] of one dtype, or no gate, and the weight [width] in float32, or none; all contiguous.</summary>
internal sealed record NormTensors(Tensor X, Tensor? Z, Tensor? Weight);

/// <summary>Runs the kernels of root_mean_square.cu.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class NormOnCuda(CudaRuntime runtime)
{
    private const int WarpThreads = 32;
    private const int BlockThreads = 128;

    /// <summary>Bytes that a thread reads at once where all rows begin at multiples of them: Pack in the prelude.</summary>
    private const int PackBytes = 16;

    /// <summary>Most packs of each tensor that a thread keeps: beyond these registers do not suffice.</summary>
    private const int MostKept = 8;

    /// <summary>Most packs of a thread where a warp goes over a row; a block goes over wider ones. A gradient has three tensors and its sums besides.</summary>
    private const int MostKeptOfWarp = 4;
    private const int MostKeptOfWarpGradient = 2;

    /// <summary>Above this width a block goes over a row, below it a warp, where elements are read one by one.</summary>
    private const int WidestWarpRow = 512;

    /// <summary>Fewest tokens of a part: the parts' gradients of the weight are then a small part of what is read and written.</summary>
    private const int FewestPartTokens = 4;

    /// <summary>The same where elements are read one by one and one thread adds up a channel, and the most parts there are.</summary>
    private const int PartTokens = 64;
    private const int MostParts = 512;

    /// <summary>y, and 1 / sqrt(mean square + eps) of each row where a backward pass will need it.</summary>
    /// <param name="tensors">The inputs.</param>
    /// <param name="form">What is computed.</param>
    /// <param name="keep">True for the second.</param>
    /// <param name="target">Receives y; null makes it.</param>
    public (Tensor Y, Tensor? Inverse) Forward(NormTensors tensors, NormForm form, bool keep, Tensor? target = null)
    {
        var p = Inputs(tensors, form);
        var y = target ?? empty_like(tensors.X);
        var inverse = keep ? empty(p.Rows, dtype: ScalarType.Float32, device: tensors.X.device) : null;
        (p.Y, p.Inverse) = (CudaRows.Address(y), CudaRows.Address(inverse));
        var row = RowPlan.Of(p, tensors.X.element_size(), MostKeptOfWarp);
        runtime.Launch(Program(tensors, form, row), "root_mean_square", p.Rows * row.Threads, p);
        TensorMemory.KeepAlive([tensors.X, tensors.Z, tensors.Weight, y, inverse]);
        return (y, inverse);
    }

    /// <summary>Gradients of x, z and the weight; null without a gate or a weight.</summary>
    public (Tensor X, Tensor? Z, Tensor? Weight) Backward(NormTensors tensors, NormForm form, Tensor inverse, Tensor gradY)
    {
        var p = Inputs(tensors, form);
        var (x, z) = (empty_like(tensors.X), tensors.Z is null ? null : empty_like(tensors.Z));
        (p.Y, p.Inverse, p.XGradient, p.ZGradient) = (CudaRows.Address(gradY), CudaRows.Address(inverse), CudaRows.Address(x), CudaRows.Address(z));
        var row = RowPlan.Of(p, tensors.X.element_size(), MostKeptOfWarpGradient);
        var tokens = p.Rows / p.Groups;
        var parts = row.Kept > 0
            ? Math.Clamp(runtime.FullThreads / (row.Threads * p.Groups), 1, Math.Max(1, tokens / FewestPartTokens))
            : Math.Clamp(tokens / PartTokens, 1, MostParts);
        var weight = tensors.Weight is null ? null : empty([parts, p.Groups * p.Width], dtype: ScalarType.Float32, device: tensors.X.device);
        p.WeightGradient = CudaRows.Address(weight);
        var program = Program(tensors, form, row);
        p.Parts = row.Kept > 0 ? parts : tokens;
        runtime.Launch(program, "root_mean_square_gradient", p.Parts * p.Groups * row.Threads, p);
        if (row.Kept == 0 && weight is not null)
        {
            p.Parts = parts;
            runtime.Launch(program, "root_mean_square_weight_gradient", parts * p.Groups * p.Width, p);
        }

        TensorMemory.KeepAlive([tensors.X, tensors.Z, tensors.Weight, inverse, gradY, x, z, weight]);
        return (x, z, weight?.sum(dim: 0));
    }

    private static NormArguments Inputs(NormTensors tensors, NormForm form)
    {
        var width = tensors.X.size(-1) / form.Groups;
        return new NormArguments
        {
            X = CudaRows.Address(tensors.X),
            Z = CudaRows.Address(tensors.Z),
            Weight = CudaRows.Address(tensors.Weight),
            Rows = tensors.X.numel() / width,
            Width = width,
            Groups = form.Groups,
            Epsilon = (float)form.Epsilon,
            WeightShift = (float)form.WeightShift,
        };
    }

    private static CudaProgram Program(NormTensors tensors, NormForm form, RowPlan row) => CudaProgram.Of(
        "root_mean_square.cu", tensors.X.dtype, ("GATE", tensors.Z is null ? 0 : (long)form.Gate), ("ROUNDED", form.RoundNormal ? 1 : 0),
        ("ROW_THREADS", row.Threads), ("PIECE", row.Piece), ("KEPT", row.Kept), ("NORM_BYTES", sizeof(NormArguments)));

    /// <summary>How a row is gone over.</summary>
    /// <param name="Threads">Threads of a row: a warp or a block.</param>
    /// <param name="Piece">Elements read at once.</param>
    /// <param name="Kept">Such pieces that each thread keeps, at least enough for a row; 0 where it reads them twice.</param>
    private readonly record struct RowPlan(int Threads, long Piece, int Kept)
    {
        public static RowPlan Of(in NormArguments p, long elementBytes, int mostKeptOfWarp)
        {
            var addresses = p.X | p.Z | p.Weight | p.Y | p.XGradient | p.ZGradient;
            if (addresses % PackBytes == 0 && p.Width * elementBytes % PackBytes == 0)
            {
                var piece = PackBytes / elementBytes;
                var packs = p.Width / piece;
                var threads = packs <= mostKeptOfWarp * WarpThreads ? WarpThreads : BlockThreads;
                var kept = BitOperations.RoundUpToPowerOf2((ulong)((packs + threads - 1) / threads));
                return new(threads, piece, kept <= MostKept ? (int)kept : 0);
            }

            return new(p.Width > WidestWarpRow ? BlockThreads : WarpThreads, 1, 0);
        }
    }
}
