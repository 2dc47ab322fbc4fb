using System.Runtime.Intrinsics.X86;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>Heads [B, T, H, W] of float32 whose W elements are next to each other.</summary>
internal readonly unsafe struct HeadView
{
    /// <summary>Floats of a line of the cache.</summary>
    private const int CacheLine = 16;

    private readonly float* first;
    private readonly long batch;
    private readonly long head;

    /// <summary>Null gives a view of nothing.</summary>
    public HeadView(Tensor? heads)
    {
        if (heads is not null)
        {
            var strides = heads.stride();
            first = (float*)TensorMemory.Address(heads);
            (batch, Step, head) = (strides[0], (nint)strides[1], strides[2]);
        }
    }

    public bool Exists => first != null;

    /// <summary>From one step to the next.</summary>
    public nint Step { get; }

    public float* At(int row, int step, int index) => first + (row * batch) + (step * Step) + (index * head);

    /// <summary>
    /// Calls some steps of a head into the cache, where the processor can. They lie a page apart as a rule, which no processor foresees.
    /// </summary>
    /// <param name="row">Batch row.</param>
    /// <param name="step">First step.</param>
    /// <param name="count">Number of steps; none where not positive.</param>
    /// <param name="index">The head.</param>
    /// <param name="width">Its elements W.</param>
    public void Prefetch(int row, int step, int count, int index, int width)
    {
        for (var i = 0; Exists && Sse.IsSupported && i < count; i++)
        {
            var source = At(row, step + i, index);
            for (var element = 0; element < width; element += CacheLine)
            {
                Sse.Prefetch1(source + element);
            }
        }
    }
}
