using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>Heads [B, T, H, W] of float32 whose W elements are next to each other.</summary>
internal readonly unsafe struct HeadView
{
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
}
