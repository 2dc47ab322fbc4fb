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

    [Fact]
    public void PassesTheSelfTest() => Assert.Null(MambaStep.Compare(CPU, new MambaStepOnCuda(HostCuda.Runtime()).Apply));

    /// <summary>The CPU step has been compared with the composed form; sizes around a warp and a block, without a window, with limits.</summary>
    [Theory]
    [InlineData(1, 8, 16, 1, 4, true, 0, double.PositiveInfinity)]
    [InlineData(3, 129, 5, 7, 3, true, 0.01, 0.05)]
    [InlineData(2, 40, 1, 3, 1, false, 0, 0.02)]
    public void EqualsTheStepOnCpu(long batch, long channels, long n, long rank, long taps, bool silu, double min, double max)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var kernel = new MambaStepOnCuda(HostCuda.Runtime());
        var weights = Weights(channels, n, rank, taps, ScalarType.Float32, ScalarType.Float32);
        var (window, state) = (randn(batch, taps - 1, channels), randn(batch, channels, n));
        var (cpuWindow, cpuState) = (window.clone(), state.clone());
        for (var step = 0; step < Steps; step++)
        {
            var projected = randn(batch, 1, 2 * channels);
            var expected = MambaStep.Apply(projected, weights, cpuWindow, cpuState, silu, (min, max));
            TensorAssert.Close(expected, kernel.Apply(projected, weights, window, state, silu, (min, max)), Tolerance, $"y of step {step}");
        }

        TensorAssert.Close(cpuState, state, Tolerance, "state");
        Assert.True(cpuWindow.eq(window).all().ToBoolean(), "window");
    }

    /// <summary>Weights in bfloat16, with A_log, D and the step bias in either dtype.</summary>
    [Theory]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float32)]
    public void HalfPrecisionWeightsKeepAFloat32State(ScalarType parameters)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        const ScalarType dtype = ScalarType.BFloat16;
        var kernel = new MambaStepOnCuda(HostCuda.Runtime());
        var weights = Weights(40, 6, 3, 4, dtype, parameters);
        var wide = new MambaStepWeights(
            Wide(weights.ConvolutionWeight), Wide(weights.ConvolutionBias!), Wide(weights.PartsWeight), Wide(weights.StepWeight), Wide(weights.StepBias),
            Wide(weights.DecayLog), Wide(weights.Skip));
        var (projected, window, state) = (randn(2, 1, 80).to_type(dtype), randn(2, 3, 40).to_type(dtype), randn(2, 40, 6));
        var (wideWindow, wideState) = (Wide(window), state.clone());
        Assert.True(MambaStepOnCuda.Fits(projected, weights, window, state, out var reason), reason);
        var y = kernel.Apply(projected, weights, window, state, true, (0, double.PositiveInfinity));
        var expected = MambaStep.Apply(Wide(projected), wide, wideWindow, wideState, true, (0, double.PositiveInfinity));
        Assert.Equal(dtype, y.dtype);

        // x, dt, B and C are rounded to 8 bits on their way.
        TensorAssert.Close(expected, y, 3e-2, "y");
        TensorAssert.Close(wideState, state, 3e-2, "state");
        TensorAssert.Identical(wideWindow, Wide(window), "window");
    }

    [Fact]
    public void WhatDoesNotFitIsNamed()
    {
        using var scope = NewDisposeScope();
        var weights = Weights(8, 2, 1, 4, ScalarType.Float32, ScalarType.Float32);
        var (x, window, state) = (randn(1, 1, 16), randn(1, 3, 8), randn(1, 8, 2));
        Assert.True(MambaStepOnCuda.Fits(x, weights, window, state, out _));
        Refuses("a weight or the window is not BFloat16", x.to_type(ScalarType.BFloat16), weights, state);
        Refuses("A_log, D and the step bias differ in dtype", x, weights with { Skip = weights.Skip.to_type(ScalarType.BFloat16) }, state);
        Refuses("the state is Float64", x, weights, state.to_type(ScalarType.Float64));
        Refuses("the state is not contiguous", x, weights, randn(1, 2, 8).transpose(1, 2));

        void Refuses(string expected, Tensor input, MambaStepWeights layer, Tensor recurrent)
        {
            Assert.False(MambaStepOnCuda.Fits(input, layer, window, recurrent, out var reason));
            Assert.Equal(expected, reason);
        }
    }

    private static MambaStepWeights Weights(long channels, long n, long rank, long taps, ScalarType dtype, ScalarType parameters)
    {
        manual_seed(7);
        return new MambaStepWeights(
            Of(dtype, channels, 1, taps), Of(dtype, channels), Of(dtype, rank + (2 * n), channels), Of(dtype, channels, rank), Of(parameters, channels),
            Of(parameters, channels, n), Of(parameters, channels));

        static Tensor Of(ScalarType type, params long[] shape) => (randn(shape) * 0.5).to_type(type);
    }

    private static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float32);
}
