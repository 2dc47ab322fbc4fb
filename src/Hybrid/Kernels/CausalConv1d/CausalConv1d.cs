using Hybrid.Kernels.Cuda;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Causal depthwise convolution over time with a fused activation, and the window of inputs that continues it:
/// <c>y_t = act(bias + sum_k weight[:, k] x_(t-(W-1)+k))</c>; the last tap is the current token, times before the first read the state.
/// </summary>
public static partial class CausalConv1d
{
    /// <summary>Convolves over time.</summary>
    /// <param name="x">Input [B, T, E].</param>
    /// <param name="weight">Taps [E, W], oldest first.</param>
    /// <param name="bias">Bias [E], or null.</param>
    /// <param name="activation">Applied to the sum.</param>
    /// <param name="initialState">The W - 1 inputs before the first [B, W - 1, E], oldest first; null for zeros.</param>
    /// <param name="lengths">Real tokens of each right-padded row; null where every row is full.</param>
    /// <param name="sequenceIds">Packed rows: int64 [B, T]; a tap does not reach into another sequence. Null for one sequence a row.</param>
    /// <param name="fused">False keeps to plain tensor operations; true uses one kernel where there is one for the device and the dtype.</param>
    /// <returns>Output [B, T, E], and the last W - 1 real inputs of each row [B, W - 1, E].</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public static (Tensor Y, Tensor FinalState) Apply(
        Tensor x,
        Tensor weight,
        Tensor? bias = null,
        Activation activation = Activation.Identity,
        Tensor? initialState = null,
        IReadOnlyList<long>? lengths = null,
        Tensor? sequenceIds = null,
        bool fused = true)
    {
        Validate(x, weight, bias, initialState, lengths, sequenceIds);
        using var scope = NewDisposeScope();
        var (y, state) = fused && CanRun(x, weight, bias, initialState, sequenceIds)
            ? Fused(DeviceOf(x), x, weight, bias, activation, initialState, lengths, sequenceIds)
            : Reference(x, weight, bias, activation, initialState, lengths, sequenceIds);
        return (y.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    private static bool CanRun(Tensor x, Tensor weight, Tensor? bias, Tensor? initialState, Tensor? sequenceIds)
    {
        ReadOnlySpan<(string, Tensor?)> tensors = [("x", x), ("weight", weight), ("bias", bias), ("initialState", initialState), ("sequenceIds", sequenceIds)];
        if (CudaRuntime.Holds(x))
        {
            return OnCuda.For(tensors) is not null;
        }

        if (CanRunOnCpu(out var reason, tensors))
        {
            return true;
        }

        KernelDispatcher.Refused(CpuKernel, reason);
        return false;
    }

    /// <summary>Where the fused convolution runs; it can.</summary>
    private static IConvDevice DeviceOf(Tensor x) => CudaRuntime.Of(x) is { } runtime ? new ConvOnCuda(runtime) : ConvOnCpu.Instance;

    private static void Validate(
        Tensor x, Tensor weight, Tensor? bias, Tensor? initialState, IReadOnlyList<long>? lengths, Tensor? sequenceIds)
    {
        var shape = x.shape;
        var taps = weight.shape;
        if (shape.Length != 3 || shape.Any(size => size < 1))
        {
            throw Mismatch("x", "[B, T, E], all at least 1", shape);
        }

        if (taps.Length != 2 || taps[0] != shape[2] || taps[1] < 1)
        {
            throw Mismatch("weight", $"[{shape[2]}, W]", taps);
        }

        Require("bias", bias?.shape, shape[2]);
        Require("initialState", initialState?.shape, shape[0], taps[1] - 1, shape[2]);
        Require("sequenceIds", sequenceIds?.shape, shape[0], shape[1]);
        if (lengths is not null && lengths.Count != shape[0])
        {
            throw Mismatch("lengths", $"one for each of {shape[0]} rows", [lengths.Count]);
        }
    }

    private static void Require(string name, long[]? got, params long[] expected)
    {
        if (got is not null && !got.AsSpan().SequenceEqual(expected))
        {
            throw Mismatch(name, $"[{string.Join(", ", expected)}]", got);
        }
    }

    private static ArgumentException Mismatch(string name, string expected, long[] got) =>
        new($"CausalConv1d: {name} must be {expected}; got [{string.Join(", ", got)}].", name);
}
