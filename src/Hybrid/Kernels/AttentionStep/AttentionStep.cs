using Hybrid.Attention;
using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Attention of a few new tokens against a cache, <c>softmax(cap(scale Q K^T)) V</c> over the visible keys: one pass over keys and values as
/// the cache holds them, which is read once for all query heads that share it. Float32 and bfloat16 on CPU, in float32; no autograd.
/// </summary>
internal static unsafe class AttentionStep
{
    /// <summary>Above this a matrix product of the queries is the better choice.</summary>
    private const long MaxTokens = 8;

    /// <summary>
    /// True where the step can run. The dispatcher logs why not where it could do with other tensors; training, prompts and packed rows are
    /// what it is not made for, and calls without tokens before theirs: those may come from a block that is computed again with autograd, and
    /// has to give the same bits then.
    /// </summary>
    /// <param name="query">[B, H, T, K].</param>
    /// <param name="key">[B, G, S, K].</param>
    /// <param name="value">[B, G, S, V].</param>
    /// <param name="visible">Which keys each query sees.</param>
    public static bool CanRun(Tensor query, Tensor key, Tensor value, KeyVisibility visible)
    {
        var tokens = query.size(2);
        if (CudaRuntime.Holds(query) || is_grad_enabled() || !visible.IsByOrderAlone || tokens > MaxTokens || key.size(2) <= tokens)
        {
            return false;
        }

        var dtype = query.dtype;
        var reason = (KernelDispatcher.ReferenceOnly, query.device_type, dtype) switch
        {
            (true, _, _) => "HYBRID_KERNELS=reference",
            (_, not DeviceType.CPU, _) => $"the tensors are on {query.device_type}",
            (_, _, not (ScalarType.Float32 or ScalarType.BFloat16)) => $"the tensors are {dtype}",
            _ when key.dtype != dtype || value.dtype != dtype => $"the queries are {dtype}, the keys {key.dtype}, the values {value.dtype}",
            _ => "",
        };
        if (reason.Length == 0 && KernelDispatcher.Agrees(nameof(AttentionStep), Compare, out reason))
        {
            return true;
        }

        KernelDispatcher.Refused(nameof(AttentionStep), reason);
        return false;
    }

    /// <summary>The self-test: grouped heads, rows of different lengths, more keys than a unit has, with window and soft cap and without.</summary>
    private static string? Compare()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        const long keys = AttentionStepSizes.ChunkKeys + 70;
        var (query, key, value) = (SelfTest.Values(1, 3, 2, 6, 3, 21), SelfTest.Values(2, 1, 2, 2, keys, 21), SelfTest.Values(3, 1, 2, 2, keys, 37));
        return Difference(ScalarType.Float32, null, null, 1e-5)
            ?? Difference(ScalarType.Float32, 540, 1.5, 1e-5)
            ?? Difference(ScalarType.BFloat16, null, null, 1.0 / 128);

        string? Difference(ScalarType dtype, long? window, double? softCap, double tolerance)
        {
            var visible = new KeyVisibility([keys - 3, 40], 3, window, null, CPU);
            var options = new AttentionOptions { SoftCap = softCap };
            var stored = new[] { query, key, value }.Select(tensor => tensor.to_type(dtype)).ToArray();
            var wide = stored.Select(tensor => tensor.to_type(ScalarType.Float64)).ToArray();
            var expected = ScaledDotProduct.Composed(wide[0], wide[1], wide[2], visible, options, dropout: 0);
            return SelfTest.Compare([expected], [Apply(stored[0], stored[1], stored[2], visible, options)], tolerance);
        }
    }

    /// <summary>Mixes values.</summary>
    /// <param name="query">[B, H, T, K].</param>
    /// <param name="key">[B, G, S, K]; the H / G consecutive query heads of a group share a key head.</param>
    /// <param name="value">[B, G, S, V].</param>
    /// <param name="visible">Which keys each query sees; every query sees at least one of the S.</param>
    /// <param name="options">Scale and soft cap.</param>
    /// <returns>[B, H, T, V] in the dtype of the values, in the memory order [B, T, H, V]; in the current dispose scope.</returns>
    public static Tensor Apply(Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options)
    {
        using var scope = NewDisposeScope();
        var dtype = value.dtype;
        var (asking, keys, values) = (Adjacent(query.to_type(ScalarType.Float32)), Adjacent(key), Adjacent(value));
        var (queryShape, keyShape, valueShape) = (asking.shape, keys.shape, values.shape);
        var starts = stackalloc long[(int)queryShape[0]];
        for (var row = 0; row < queryShape[0]; row++)
        {
            starts[row] = visible.Starts[visible.Starts.Count == 1 ? 0 : row];
        }

        var sizes = new AttentionStepSizes
        {
            Query = (float*)TensorMemory.Address(asking),
            Keys = TensorMemory.Address(keys),
            Values = TensorMemory.Address(values),
            Starts = starts,
            QueryStrides = Strides(asking),
            KeyStrides = Strides(keys),
            ValueStrides = Strides(values),
            Batch = (int)queryShape[0],
            Heads = (int)queryShape[1],
            Groups = (int)keyShape[1],
            Time = (int)queryShape[2],
            KeyWidth = (int)queryShape[3],
            ValueWidth = (int)valueShape[3],
            Chunks = (int)((keyShape[2] + AttentionStepSizes.ChunkKeys - 1) / AttentionStepSizes.ChunkKeys),
            Window = visible.Window ?? long.MaxValue,
            Scale = (float)(options.Scale ?? (1 / Math.Sqrt(queryShape[3]))),
            SoftCap = (float)(options.SoftCap ?? 0),
        };
        var isWide = dtype == ScalarType.Float32;
        var scratch = empty(((long)sizes.Units * sizes.UnitFloats) + (isWide ? 0 : (long)sizes.Parts * sizes.WidenedFloats), dtype: ScalarType.Float32);
        var output = empty([sizes.Batch, sizes.Time, sizes.Heads, sizes.ValueWidth], dtype: ScalarType.Float32);
        sizes.Mixed = (float*)TensorMemory.Address(scratch);
        sizes.Widened = sizes.Mixed + ((long)sizes.Units * sizes.UnitFloats);
        sizes.Output = (float*)TensorMemory.Address(output);
        if (isWide)
        {
            Run<Float32Weights>(sizes);
        }
        else
        {
            Run<BFloat16Weights>(sizes);
        }

        TensorMemory.KeepAlive([asking, keys, values, scratch]);
        return output.to_type(dtype).transpose(1, 2).MoveToOuterDisposeScope();
    }

    /// <summary>Registers go along the keys and values of a head: the widest that both fill, so that few elements are left over.</summary>
    private static void Run<TStored>(AttentionStepSizes sizes)
        where TStored : struct, IStoredWeights => LaneWidth.Run(new Kernel<TStored>(sizes), Math.Min(sizes.KeyWidth, sizes.ValueWidth));

    /// <summary>The tensor itself where the elements of its last dimension are next to each other, else a copy.</summary>
    private static Tensor Adjacent(Tensor tensor) => tensor.stride()[3] == 1 ? tensor : tensor.contiguous();

    private static (long Row, long Head, long Token) Strides(Tensor tensor)
    {
        var strides = tensor.stride();
        return (strides[0], strides[1], strides[2]);
    }

    private readonly struct Kernel<TStored>(AttentionStepSizes sizes) : ILaneCode
        where TStored : struct, IStoredWeights
    {
        public void Run<TLane>()
            where TLane : struct, ILane<TLane>
        {
            var kernel = new AttentionStepKernel<TLane, TStored>(sizes);
            WorkerTeam.Run(kernel, sizes.Parts);
            kernel.Join();
        }
    }
}
