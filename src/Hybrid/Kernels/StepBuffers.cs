using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The tensors that decoding steps write into, in no dispose scope: the first step makes them, and as every step takes them in the same
/// order, all later ones find them there. What a step took is valid until the next one begins. A layer without buffers of a stack
/// makes its own for one call, see <see cref="For"/>.
/// </summary>
internal sealed class StepBuffers : IDisposable
{
    private readonly List<Buffer> buffers = [];
    private readonly List<Tensor> adopted = [];
    private int taken;

    /// <summary>Starts a step: what the step before took is free again.</summary>
    public void Begin()
    {
        adopted.ForEach(tensor => tensor.Dispose());
        adopted.Clear();
        taken = 0;
    }

    /// <summary>A tensor to write into, with any content.</summary>
    /// <param name="like">Gives dtype and device.</param>
    /// <param name="shape">The shape.</param>
    public Tensor Take(Tensor like, params ReadOnlySpan<long> shape) => Take(like, like.dtype, shape);

    /// <summary>A tensor to write into, with any content.</summary>
    /// <param name="like">Gives the device.</param>
    /// <param name="dtype">The dtype.</param>
    /// <param name="shape">The shape.</param>
    public Tensor Take(Tensor like, ScalarType dtype, params ReadOnlySpan<long> shape)
    {
        if (taken == buffers.Count)
        {
            buffers.Add(Buffer.Make(like, dtype, shape));
        }
        else if (!buffers[taken].Fits(like, dtype, shape))
        {
            // Another batch size, or a layer that took another way than in the step before.
            buffers[taken].Tensor.Dispose();
            buffers[taken] = Buffer.Make(like, dtype, shape);
        }

        return buffers[taken++].Tensor;
    }

    /// <summary>A tensor of the shape of <paramref name="like"/> with another last dimension, found without an array for that shape.</summary>
    /// <param name="like">Gives dtype, device and all dimensions but the last.</param>
    /// <param name="width">The last dimension; 0 is that of <paramref name="like"/>.</param>
    public Tensor TakeLike(Tensor like, long width = 0)
    {
        Span<long> shape = stackalloc long[(int)like.Dimensions];
        for (var i = 0; i < shape.Length; i++)
        {
            shape[i] = like.size(i);
        }

        if (width > 0)
        {
            shape[^1] = width;
        }

        return Take(like, shape);
    }

    /// <summary>Takes over a tensor that was made anew, until the next step begins.</summary>
    public Tensor Adopt(Tensor tensor)
    {
        adopted.Add(tensor.DetachFromDisposeScope());
        return tensor;
    }

    /// <summary>Frees all tensors.</summary>
    public void Dispose()
    {
        Begin();
        buffers.ForEach(buffer => buffer.Tensor.Dispose());
        buffers.Clear();
    }

    /// <summary>The buffers of a step of one layer: those of the stack, or some for this call alone.</summary>
    public static Lease For(MixerContext context) => new(context.Buffers ?? new StepBuffers(), context.Buffers is null);

    /// <summary>Buffers that are freed with the call where they were made for it.</summary>
    public readonly ref struct Lease(StepBuffers buffers, bool isOwn)
    {
        /// <summary>The buffers.</summary>
        public StepBuffers Buffers => buffers;

        /// <summary>The layer's result, which outlives buffers that end with the call: it then belongs to the current dispose scope.</summary>
        public Tensor Result(Tensor y) => isOwn ? buffers.GiveUp(y) : y;

        public void Dispose()
        {
            if (isOwn)
            {
                buffers.Dispose();
            }
        }
    }

    private Tensor GiveUp(Tensor tensor)
    {
        var removed = buffers.RemoveAll(buffer => ReferenceEquals(buffer.Tensor, tensor)) + adopted.RemoveAll(other => ReferenceEquals(other, tensor));
        if (removed > 0)
        {
            CurrentDisposeScope?.Attach(tensor);
        }

        return tensor;
    }

    private readonly record struct Buffer(Tensor Tensor, long[] Shape, ScalarType Type, DeviceType Device, int Index)
    {
        public static Buffer Make(Tensor like, ScalarType dtype, ReadOnlySpan<long> shape)
        {
            var sizes = shape.ToArray();
            return new Buffer(empty(sizes, dtype: dtype, device: like.device).DetachFromDisposeScope(), sizes, dtype, like.device_type, like.device_index);
        }

        public bool Fits(Tensor like, ScalarType dtype, ReadOnlySpan<long> shape) =>
            shape.SequenceEqual(Shape) && dtype == Type && like.device_type == Device && like.device_index == Index;
    }
}
