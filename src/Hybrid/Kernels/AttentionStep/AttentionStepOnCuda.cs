using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Hybrid.Attention;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct StepArguments of attention_step.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct AttentionStepArguments
{
    /// <summary>Most pairs of channels that turn.</summary>
    public const int MostFrequencies = 128;

    /// <summary>Most rows with positions of their own.</summary>
    public const int MostRows = 64;

    public nint Query;
    public nint Key;
    public nint Value;
    public nint Keys;
    public nint Values;
    public nint Parts;
    public nint Y;
    public nint Barrier;
    public long Slots;
    public long Window;
    public int Batch;
    public int Groups;
    public int Heads;
    public int Splits;
    public int Turning;
    public int Ragged;
    public float Scale;
    public float Cap;
    public float Amplitude;
    public FrequencyList Frequencies;
    public PositionList Positions;

    [InlineArray(MostFrequencies)]
    public struct FrequencyList
    {
        private float first;
    }

    [InlineArray(MostRows)]
    public struct PositionList
    {
        private int first;
    }
}

/// <summary>
/// Runs the kernel of attention_step.cu: one token a row between the projections of an attention layer in one launch, which turns its query and
/// key and writes its key and value into the cache.
/// </summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class AttentionStepOnCuda(CudaRuntime runtime)
{
    private const int BlockThreads = 128;
    private const int PackBytes = 16;

    /// <summary>Query heads of a key head that a block takes at most: their mixed values are in its registers.</summary>
    private const long MostHeadsOfBlock = 8;

    /// <summary>Widest head: its scores are summed and its queries kept in shared memory.</summary>
    private const long MostWidth = 256;

    private static readonly CudaKernel<AttentionStepOnCuda> OnCuda = new("AttentionStep.Cuda", runtime => new(runtime), (kernel, device) => kernel.Compare(device));

    /// <summary>The kernel for a step; null where it cannot run, and then the dispatcher logs why not, but for tensors that are not on CUDA.</summary>
    /// <param name="x">Input of the layer [B, 1, D].</param>
    /// <param name="state">The cache.</param>
    /// <param name="rotary">Turns queries and keys, or null.</param>
    public static AttentionStepOnCuda? For(Tensor x, KeyValueState state, RotaryEmbedding? rotary)
    {
        var (keys, values) = state.BuffersFor(1);
        return OnCuda.For(Misfit(x.dtype, keys, state, rotary), (nameof(x), x), ("the cached keys", keys), ("the cached values", values));
    }

    /// <summary>What the kernel does not take; empty where it takes all.</summary>
    internal static string Misfit(ScalarType dtype, Tensor keys, KeyValueState state, RotaryEmbedding? rotary)
    {
        var (pairs, width) = (rotary?.Frequencies.Length ?? 0, keys.size(3));
        return keys.dtype != dtype ? $"the cache is {keys.dtype}; the input is {dtype}"
            : width > MostWidth ? $"a head has {width} channels; the kernel takes {MostWidth}"
            : pairs > AttentionStepArguments.MostFrequencies ? $"{pairs} pairs of channels turn; the kernel takes {AttentionStepArguments.MostFrequencies}"
            : !state.IsUniform && state.BatchSize > AttentionStepArguments.MostRows
                ? $"{state.BatchSize} rows have positions of their own; the kernel takes {AttentionStepArguments.MostRows}"
            : state.Position >= int.MaxValue - BlockThreads ? $"a row has {state.Position} tokens"
            : "";
    }

    /// <summary>Runs the step; the caller advances the state then.</summary>
    /// <param name="query">[B, 1, H K], contiguous, not turned yet.</param>
    /// <param name="key">[B, 1, G K], likewise; G divides H.</param>
    /// <param name="value">[B, 1, G K], likewise.</param>
    /// <param name="state">The cache; gets the token in the slot of its position.</param>
    /// <param name="options">Scale, soft cap, window.</param>
    /// <param name="rotary">Turns query and key; null leaves them.</param>
    /// <param name="buffers">What the result is taken from.</param>
    /// <returns>[B, 1, H K].</returns>
    public Tensor Apply(
        Tensor query, Tensor key, Tensor value, KeyValueState state, AttentionOptions options, RotaryEmbedding? rotary, StepBuffers buffers)
    {
        var (keys, values) = state.BuffersFor(1);
        var (batch, groups, width) = (keys.size(0), keys.size(1), keys.size(3));
        var heads = query.size(2) / width;
        var tiles = ((heads / groups) + MostHeadsOfBlock - 1) / MostHeadsOfBlock;
        var headsOfBlock = ((heads / groups) + tiles - 1) / tiles;
        var units = batch * groups * tiles;
        var pieces = (Math.Min(state.Position + 1, options.WindowSize ?? long.MaxValue) + BlockThreads - 1) / BlockThreads;
        var splits = Math.Clamp(runtime.MostBlocksTogether / units, 1, pieces);
        var parts = buffers.Take(query, ScalarType.Float32, Math.Max(units, runtime.MostBlocksTogether) * headsOfBlock * (2 + width));
        var y = buffers.TakeLike(query);
        var p = new AttentionStepArguments
        {
            Query = CudaRows.Address(query),
            Key = CudaRows.Address(key),
            Value = CudaRows.Address(value),
            Keys = CudaRows.Address(keys),
            Values = CudaRows.Address(values),
            Parts = CudaRows.Address(parts),
            Y = CudaRows.Address(y),
            Barrier = runtime.Barrier,
            Slots = keys.size(2),
            Window = options.WindowSize ?? long.MaxValue,
            Batch = (int)batch,
            Groups = (int)groups,
            Heads = (int)heads,
            Splits = (int)splits,
            Turning = 2 * (rotary?.Frequencies.Length ?? 0),
            Ragged = state.IsUniform ? 0 : 1,
            Scale = (float)(options.Scale ?? (1 / Math.Sqrt(width))),
            Cap = (float)(options.SoftCap ?? 0),
            Amplitude = (float)(rotary?.Amplitude ?? 1),
        };
        for (var i = 0; i < p.Turning / 2; i++)
        {
            p.Frequencies[i] = (float)rotary!.Frequencies[i];
        }

        for (var row = 0; row < (state.IsUniform ? 1 : batch); row++)
        {
            p.Positions[row] = (int)state.Positions[row];
        }

        var inPacks = width * keys.element_size() % PackBytes == 0 && (p.Keys | p.Values) % PackBytes == 0;
        var program = CudaProgram.Of(
            "attention_step.cu", query.dtype, ("HEADS", headsOfBlock), ("WIDTH", width), ("PACKS", inPacks ? 1 : 0),
            ("STEP_BYTES", sizeof(AttentionStepArguments)));
        runtime.LaunchTogether(program, "attention_step", Math.Max(units * splits, batch * heads), p);
        GC.KeepAlive(query);
        GC.KeepAlive(key);
        GC.KeepAlive(value);
        GC.KeepAlive(state);
        return y;
    }

    /// <summary>The self-test: steps of rows of different lengths past a window, against tensor operations over the same cache.</summary>
    internal string? Compare(Device device)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        const long batch = 2, heads = 6, groups = 2, width = 20, window = 9, prompt = 7;
        var options = new AttentionOptions { NumHeads = heads, WindowSize = window, SoftCap = 1.5 };
        var rotary = new RotaryEmbedding(16);
        using var state = KeyValueState.Create(batch, groups, width, null, window, rotary.Settings, ScalarType.Float32, device);
        using var other = KeyValueState.Create(batch, groups, width, null, window, rotary.Settings, ScalarType.Float32, device);
        var (first, second) = (Values(1, batch, groups, prompt, width), Values(2, batch, groups, prompt, width));
        long[] lengths = [prompt, 4];
        foreach (var cache in new[] { state, other })
        {
            cache.Append(first, second);
            cache.Advance(first, second, lengths);
        }

        for (var step = 0; step < 4; step++)
        {
            var (query, key, value) = (Values(3 + step, batch, 1, heads * width), Values(13 + step, batch, 1, groups * width), Values(23 + step, batch, 1, groups * width));
            var (turnedQuery, turnedKey) = (Split(query, heads), Split(key, groups));
            var angles = rotary.Angles(tensor(other.Positions.ToArray(), dtype: ScalarType.Int64).to(device).unsqueeze(1));
            (turnedQuery, turnedKey) = (Rotation.Reference(turnedQuery, angles), Rotation.Reference(turnedKey, angles));
            var visible = new KeyVisibility(other.Visible, 1, window, null, device);
            var (keys, values) = other.Append(turnedKey, Split(value, groups));
            var expected = ScaledDotProduct.Composed(turnedQuery, keys, values, visible, options, dropout: 0).transpose(1, 2).reshape(batch, 1, heads * width);
            other.Advance(turnedKey, Split(value, groups), null);
            buffers.Begin();
            var y = Apply(query, key, value, state, options, rotary, buffers);
            state.Advance(1, null);
            if (SelfTest.Compare([expected, other.Keys], [y, state.Keys], 1e-5) is { } difference)
            {
                return difference;
            }
        }

        return null;

        Tensor Values(int seed, params long[] shape) => SelfTest.Values(seed, 1, shape).to(device);

        static Tensor Split(Tensor x, long count) => x.view(x.size(0), 1, count, -1).transpose(1, 2);
    }
}
