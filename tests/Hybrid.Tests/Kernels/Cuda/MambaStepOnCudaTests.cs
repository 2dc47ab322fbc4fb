using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The decoding step's CUDA kernels, on a CPU in the place of a device.</summary>
public class MambaStepOnCudaTests
{
    private const int Steps = 4;

    // Four steps of sums of up to 40 products each, in float32.
    private const double Tolerance = 5e-6;

    private static readonly MambaStepForm Plain = new(true, 0, double.PositiveInfinity, null);

    [Fact]
    public void PassesTheSelfTest() => Assert.Null(MambaStep.Compare(CPU, Kernel()));

    /// <summary>
    /// The CPU step has been compared with the composed form; sizes around a warp and a block, without a window, with limits, and with more work
    /// than blocks that run at once.
    /// </summary>
    [Theory]
    [InlineData(1, 8, 16, 1, 4, true, 0, double.PositiveInfinity, null)]
    [InlineData(3, 129, 5, 7, 3, true, 0.01, 0.05, 1e-6)]
    [InlineData(2, 40, 1, 3, 1, false, 0, 0.02, null)]
    [InlineData(5, 300, 16, 19, 4, true, 0, double.PositiveInfinity, 0.1)]
    [InlineData(2, 136, 24, 8, 4, true, 0, double.PositiveInfinity, null)]
    [InlineData(1, 260, 4, 44, 2, true, 0, double.PositiveInfinity, 1e-6)]
    public void EqualsTheStepOnCpu(long batch, long channels, long n, long rank, long taps, bool silu, double min, double max, double? epsilon)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        var kernel = Kernel();
        var form = new MambaStepForm(silu, min, max, epsilon);
        var launches = HostCuda.Runtime().Launches;
        var weights = Weights(channels, n, rank, taps, ScalarType.Float32, ScalarType.Float32);
        var (window, state) = (randn(batch, taps - 1, channels), randn(batch, channels, n));
        var (cpuWindow, cpuState) = (window.clone(), state.clone());
        for (var step = 0; step < Steps; step++)
        {
            var projected = randn(batch, 1, 2 * channels);
            buffers.Begin();
            var expected = MambaStep.Apply(projected, weights, cpuWindow, cpuState, form, buffers);
            TensorAssert.Close(expected, kernel(projected, weights, window, state, form, buffers), Tolerance, $"y of step {step}");
        }

        Assert.Equal(launches + Steps, HostCuda.Runtime().Launches);

        TensorAssert.Close(cpuState, state, Tolerance, "state");
        Assert.True(cpuWindow.eq(window).all().ToBoolean(), "window");
    }

    /// <summary>Weights in bfloat16, with A_log, D and the step bias in either dtype.</summary>
    [Theory]
    [InlineData(ScalarType.BFloat16, 40, 6, 3)]
    [InlineData(ScalarType.Float32, 40, 6, 3)]
    [InlineData(ScalarType.BFloat16, 152, 16, 8)]
    [InlineData(ScalarType.BFloat16, 24, 4, 16)]
    [InlineData(ScalarType.Float32, 200, 8, 24)]
    public void HalfPrecisionWeightsKeepAFloat32State(ScalarType parameters, long channels, long n, long rank)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        const ScalarType dtype = ScalarType.BFloat16;
        using var buffers = new StepBuffers();
        var weights = Weights(channels, n, rank, 4, dtype, parameters);
        var wide = new MambaStepWeights(
            Wide(weights.ConvolutionWeight), Wide(weights.ConvolutionBias!), Wide(weights.PartsWeight), Wide(weights.StepWeight), Wide(weights.StepBias),
            Wide(weights.DecayLog), Wide(weights.Skip));
        var (projected, window, state) = (randn(2, 1, 2 * channels).to_type(dtype), randn(2, 3, channels).to_type(dtype), randn(2, channels, n));
        var (wideWindow, wideState) = (Wide(window), state.clone());
        Assert.True(MambaStepOnCuda.Fits(projected, weights, window, state, out var reason), reason);
        var y = Kernel()(projected, weights, window, state, Plain, buffers);
        var expected = MambaStep.Apply(Wide(projected), wide, wideWindow, wideState, Plain, buffers);
        Assert.Equal(dtype, y.dtype);

        // y is rounded to 8 bits; within the kernel all is float32.
        TensorAssert.Close(expected, y, 1.0 / 256, "y");
        TensorAssert.Close(wideState, state, Tolerance, "state");
        TensorAssert.Identical(wideWindow, Wide(window), "window");
    }

    [Fact]
    public void WhatDoesNotFitIsNamed()
    {
        using var scope = NewDisposeScope();
        var weights = Weights(8, 2, 1, 4, ScalarType.Float32, ScalarType.Float32);
        var (x, window, state) = (randn(1, 1, 16), randn(1, 3, 8), randn(1, 8, 2));
        Assert.True(MambaStepOnCuda.Fits(x, weights, window, state, out _));
        const string notAlike = "A_log, D, the step bias and norms are not all Float32 or all Float32 in one piece of memory each";
        Refuses("a weight or the window is not BFloat16 in one piece of memory", x.to_type(ScalarType.BFloat16), weights, state);
        Refuses("a weight or the window is not Float32 in one piece of memory", x, weights with { StepWeight = randn(3, 8).t() }, state);
        Refuses(notAlike, x, weights with { Skip = weights.Skip.to_type(ScalarType.BFloat16) }, state);
        Refuses("the state is not Float32 in one piece of memory", x, weights, state.to_type(ScalarType.Float64));
        Refuses("the state is not Float32 in one piece of memory", x, weights, randn(1, 2, 8).transpose(1, 2));
        Refuses("dt, B and C have 1025 numbers; the kernel takes 1024", x, weights with { PartsWeight = randn(1025, 8) }, state);

        void Refuses(string expected, Tensor input, MambaStepWeights layer, Tensor recurrent)
        {
            Assert.False(MambaStepOnCuda.Fits(input, layer, window, recurrent, out var reason));
            Assert.Equal(expected, reason);
        }
    }

    private static RunMambaStep Kernel() => new MambaStepOnCuda(HostCuda.Runtime()).Apply;

    private static MambaStepWeights Weights(long channels, long n, long rank, long taps, ScalarType dtype, ScalarType parameters)
    {
        manual_seed(7);
        return new MambaStepWeights(
            Of(dtype, channels, 1, taps), Of(dtype, channels), Of(dtype, rank + (2 * n), channels), Of(dtype, channels, rank), Of(parameters, channels),
            Of(parameters, channels, n), Of(parameters, channels), null, Of(parameters, n), Of(parameters, n));

        static Tensor Of(ScalarType type, params long[] shape) => (randn(shape) * 0.5).to_type(type);
    }

    private static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float32);
}
