using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>A convolution with everything in it, by which each fused kernel is compared with the reference: outputs, state, all gradients.</summary>
internal static class ConvKernelCase
{
    /// <summary>Sizes around the width of a register and of a group of channels, windows longer than the input, padding and packed rows.</summary>
    public static TheoryData<long, long, long, long, string> All => new()
    {
        { 1, 1, 1, 1, "" },
        { 2, 2, 15, 4, "state" },
        { 1, 33, 16, 4, "bias" },
        { 3, 63, 17, 3, "bias state" },
        { 2, 100, 130, 4, "bias state lengths" },
        { 2, 40, 35, 5, "bias packed" },
        { 1, 3, 9, 7, "state packed" },
        { 1, 65, 300, 2, "bias" },
        { 2, 70, 3, 40, "bias state" },
        { 2, 1, 33, 4, "bias state" },
        { 1, 17, 64, 4, "" },
        { 1, 131, 47, 4, "bias" },
        { 2, 300, 21, 4, "bias state" },
    };

    /// <summary>Compares the kernels of a device with the reference.</summary>
    public static void Check(IConvDevice kernel, Device device, double tolerance, long batch, long time, long channels, long width, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(12);
        var drawn = new List<Tensor> { randn(batch, time, channels), randn(channels, width) };
        var bias = with.Contains("bias", StringComparison.Ordinal);
        var state = with.Contains("state", StringComparison.Ordinal);
        drawn.AddRange(bias ? [randn(channels)] : []);
        drawn.AddRange(state ? [randn(batch, width - 1, channels)] : []);
        Tensor[] inputs = [.. drawn.Select(input => input.to(device))];
        long[]? lengths = with.Contains("lengths", StringComparison.Ordinal) ? [2, time] : null;
        var ids = with.Contains("packed", StringComparison.Ordinal) ? rand(batch, time).gt(0.7).to_type(ScalarType.Int64).cumsum(1).to(device) : null;

        foreach (var activation in Enum.GetValues<Activation>())
        {
            var reference = Differentiation.Results(inputs, x => CausalConv1d.Reference(x[0], x[1], Bias(x), activation, State(x), lengths, ids));
            var fast = Differentiation.Results(inputs, x => CausalConv1d.Fused(kernel, x[0], x[1], Bias(x), activation, State(x), lengths, ids));
            if (width > 1)
            {
                TensorAssert.Identical(reference[1], fast[1], "state");
            }

            TensorAssert.AllClose(reference, fast, tolerance, $"{activation}", "y", "state");
        }

        Tensor? Bias(Tensor[] x) => bias ? x[2] : null;

        Tensor? State(Tensor[] x) => state ? x[^1] : null;
    }
}
