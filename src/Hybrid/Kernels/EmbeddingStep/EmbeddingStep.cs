using System.Runtime.InteropServices;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct EmbeddingArguments of embedding_step.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct EmbeddingStepArguments
{
    public nint Weight;
    public nint Ids;
    public nint Y;
    public long Vocabulary;
    public long Width;
    public long Rows;
}

/// <summary>Rows of a matrix by token id in a step, into its buffers.</summary>
internal static unsafe class EmbeddingStep
{
    private static readonly CudaKernel<EmbeddingOnCuda> OnCuda = new("EmbeddingStep.Cuda", runtime => new(runtime), Compare);

    /// <summary>Looks ids up.</summary>
    /// <param name="weight">[V, D].</param>
    /// <param name="ids">Int64 [B, 1]. On CUDA, an id that is not 0..V-1 gives a row that is not a number.</param>
    /// <param name="buffers">What the result is taken from.</param>
    /// <returns>[B, 1, D]; null where the lookup of libtorch has to do it, or to say what is wrong.</returns>
    public static Tensor? Apply(Tensor weight, Tensor ids, StepBuffers buffers)
    {
        if (!weight.is_contiguous() || !ids.is_contiguous())
        {
            return null;
        }

        var (vocabulary, width, rows) = (weight.size(0), weight.size(1), ids.size(0));
        if (CudaRuntime.Holds(weight))
        {
            return OnCuda.For(("the embedding", weight), ("ids", ids))?.Run(weight, ids, buffers.Take(weight, rows, 1, width));
        }

        if (weight.device_type != DeviceType.CPU || ids.device_type != DeviceType.CPU)
        {
            return null;
        }

        var wanted = new ReadOnlySpan<long>(TensorMemory.Address(ids), (int)rows);
        if (wanted.ContainsAnyExceptInRange(0, vocabulary - 1))
        {
            return null;
        }

        var y = buffers.Take(weight, rows, 1, width);
        var source = TensorMemory.Address(weight);
        var target = TensorMemory.Address(y);
        var bytes = width * weight.element_size();
        for (var row = 0; row < wanted.Length; row++)
        {
            Buffer.MemoryCopy(source + (wanted[row] * bytes), target + (row * bytes), bytes, bytes);
        }

        GC.KeepAlive(weight);
        GC.KeepAlive(ids);
        GC.KeepAlive(y);
        return y;
    }

    private static string? Compare(EmbeddingOnCuda kernel, Device device)
    {
        using var scope = NewDisposeScope();
        var (weight, ids) = (SelfTest.Values(1, 1, 5, 37).to(device), tensor(new long[] { 4, 0, 3 }).view(3, 1).to(device));
        return SelfTest.Compare([weight.index_select(0, ids.view(-1)).unsqueeze(1)], [kernel.Run(weight, ids, empty([3, 1, 37], device: device))], 0);
    }
}

/// <summary>Runs the kernel of embedding_step.cu.</summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class EmbeddingOnCuda(CudaRuntime runtime)
{
    /// <summary>Looks ids up.</summary>
    /// <param name="weight">[V, D], contiguous.</param>
    /// <param name="ids">Int64 [B, 1], contiguous.</param>
    /// <param name="y">Receives the rows [B, 1, D].</param>
    /// <returns><paramref name="y"/>.</returns>
    public Tensor Run(Tensor weight, Tensor ids, Tensor y)
    {
        var p = new EmbeddingStepArguments
        {
            Weight = CudaRows.Address(weight),
            Ids = CudaRows.Address(ids),
            Y = CudaRows.Address(y),
            Vocabulary = weight.size(0),
            Width = weight.size(1),
            Rows = ids.numel(),
        };
        runtime.Launch(
            CudaProgram.Of("embedding_step.cu", weight.dtype, ("EMBEDDING_BYTES", sizeof(EmbeddingStepArguments))), "embedding_step", p.Rows * p.Width, p);
        GC.KeepAlive(weight);
        GC.KeepAlive(ids);
        GC.KeepAlive(y);
        return y;
    }
}
