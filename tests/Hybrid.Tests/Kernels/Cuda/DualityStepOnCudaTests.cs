using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The decoding step of a Mamba-2 layer on CUDA, on a CPU in the place of a device.</summary>
public class DualityStepOnCudaTests
{
    private const int Steps = 4;

    // Four steps of sums of up to 256 products each, in float32.
    private const double Tolerance = 5e-6;

    [Fact]
    public void PassesTheSelfTest() => Assert.Null(DualityStep.Compare(CPU, 16, Kernel()));

    /// <summary>
    /// The CPU step has been compared with the composed form; sizes around a warp and a block, without a norm, with one on either side of the
    /// gate, in groups, with limits, without a window, and with more work than blocks that run at once.
    /// </summary>
    [Theory]
    [InlineData(1, 2, 16, 16, 1, 4, 1, false, 0, double.PositiveInfinity)]
    [InlineData(3, 4, 32, 33, 2, 3, 2, true, 0.01, 0.05)]
    [InlineData(2, 3, 16, 1, 3, 1, 0, false, 0, 0.02)]
    [InlineData(2, 9, 48, 128, 1, 4, 3, false, 0, double.PositiveInfinity)]
    [InlineData(1, 1, 272, 256, 1, 2, 1, true, 0, double.PositiveInfinity)]
    public void EqualsTheStepOnCpu(
        long batch, long heads, long headWidth, long n, long groups, long taps, long normGroups, bool normBeforeGate, double min, double max)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        using var norm = normGroups == 0 ? null : new GatedRmsNorm(heads * headWidth, 1e-3, normBeforeGate, normGroups);
        norm?.Weight.copy_(randn(heads * headWidth));
        var layer = Layer(heads, headWidth, n, groups, taps, norm, ScalarType.Float32, ScalarType.Float32) with { StepMin = min, StepMax = max };
        var channels = layer.ConvolutionWeight.size(0);
        var (window, state) = (randn(batch, taps - 1, channels), randn(batch, heads, headWidth, n));
        var (cpuWindow, cpuState) = (window.clone(), state.clone());
        var (kernel, launches) = (Kernel(), HostCuda.Runtime().Launches);
        for (var step = 0; step < Steps; step++)
        {
            var projected = randn(batch, 1, (heads * headWidth) + channels + heads);
            buffers.Begin();
            var expected = DualityStep.Apply(projected, layer, cpuWindow, cpuState, buffers);
            TensorAssert.Close(expected, kernel(projected, layer, window, state, buffers), Tolerance, $"y of step {step}");
        }

        Assert.Equal(launches + Steps, HostCuda.Runtime().Launches);
        TensorAssert.Close(cpuState, state, Tolerance, "state");
        Assert.True(cpuWindow.eq(window).all().ToBoolean(), "window");
    }

    /// <summary>Weights in bfloat16, with A_log, D, dt_bias and the norm in either dtype.</summary>
    [Theory]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float32)]
    public void HalfPrecisionWeightsKeepAFloat32State(ScalarType parameters)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        using var norm = new GatedRmsNorm(64);
        norm.to(parameters);
        using var wideNorm = new GatedRmsNorm(64);
        var layer = Layer(4, 16, 24, 2, 4, norm, ScalarType.BFloat16, parameters);
        var wide = new DualityStepLayer(
            Wide(layer.ConvolutionWeight), Wide(layer.ConvolutionBias!), Wide(layer.StepBias), Wide(layer.DecayLog), Wide(layer.Skip), wideNorm, 2);
        var channels = layer.ConvolutionWeight.size(0);
        var projected = randn(2, 1, 64 + channels + 4).to_type(ScalarType.BFloat16);
        var (window, state) = (randn(2, 3, channels).to_type(ScalarType.BFloat16), randn(2, 4, 16, 24));
        var (wideWindow, wideState) = (Wide(window), state.clone());
        Assert.True(DualityStepOnCuda.Fits(projected, layer, window, state, out var reason), reason);
        var y = Kernel()(projected, layer, window, state, buffers);
        var expected = DualityStep.Apply(Wide(projected), wide, wideWindow, wideState, buffers);
        Assert.Equal(ScalarType.BFloat16, y.dtype);

        // y is rounded to 8 bits; within the kernel all is float32.
        TensorAssert.Close(expected, y, 1.0 / 256, "y");
        TensorAssert.Close(wideState, state, Tolerance, "state");
        TensorAssert.Identical(wideWindow, Wide(window), "window");
    }

    [Theory]
    [InlineData(2, 24, 8, 1, "heads of 24 and groups of 48 channels are not all multiples of 16")]
    [InlineData(3, 16, 8, 2, "heads of 16 and groups of 24 channels are not all multiples of 16")]
    [InlineData(1, 16, 257, 1, "a channel has 257 states; the kernel takes 256")]
    public void WhatDoesNotFitIsNamed(long heads, long headWidth, long n, long normGroups, string expected)
    {
        using var scope = NewDisposeScope();
        using var norm = new GatedRmsNorm(heads * headWidth, groups: normGroups);
        var layer = Layer(heads, headWidth, n, 1, 4, norm, ScalarType.Float32, ScalarType.Float32);
        var channels = layer.ConvolutionWeight.size(0);
        Assert.False(DualityStepOnCuda.Fits(randn(1, 1, 4), layer, randn(1, 3, channels), randn(1, heads, headWidth, n), out var reason));
        Assert.Equal(expected, reason);
    }

    private static RunDualityStep Kernel() => new DualityStepOnCuda(HostCuda.Runtime()).Apply;

    private static DualityStepLayer Layer(
        long heads, long headWidth, long n, long groups, long taps, GatedRmsNorm? norm, ScalarType dtype, ScalarType parameters)
    {
        manual_seed(7);
        var channels = (heads * headWidth) + (2 * groups * n);
        return new DualityStepLayer(
            Of(dtype, channels, 1, taps), Of(dtype, channels), Of(parameters, heads), Of(parameters, heads), Of(parameters, heads), norm, groups);

        static Tensor Of(ScalarType type, params long[] shape) => (randn(shape) * 0.5).to_type(type);
    }

    private static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float32);
}
