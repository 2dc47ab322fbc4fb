using Hybrid.Attention;
using Hybrid.Kernels;
using Hybrid.Kernels.Cuda;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The decoding step of an attention layer on CUDA, on a CPU in the place of a device.</summary>
public class AttentionStepOnCudaTests
{
    // Sums over up to 700 keys and 256 channels in float32, in another order.
    private const double Tolerance = 1e-5;

    [Fact]
    public void PassesTheSelfTest() => Assert.Null(new AttentionStepOnCuda(HostCuda.Runtime()).Compare(CPU));

    /// <summary>
    /// Against the layer on CPU, which equals its golden numbers: heads of their own and shared, more of a group than a block takes, widths around a
    /// pack, part of the channels turning or none, keys in several parts, a window that laps, and rows of different lengths.
    /// </summary>
    [Theory]
    [InlineData(1, 4, 4, 16, 1.0, null, null, "1", 3)]
    [InlineData(3, 4, 2, 20, 0.5, null, 2.5, "5 1 9", 3)]
    [InlineData(2, 10, 1, 7, 0.0, null, null, "3 3", 2)]
    [InlineData(1, 12, 1, 64, 1.0, null, null, "700", 3)]
    [InlineData(2, 4, 2, 32, 1.0, null, null, "300 120", 2)]
    [InlineData(2, 6, 3, 18, 1.0, 6L, null, "4 4", 5)]
    [InlineData(3, 4, 2, 16, 1.0, 140L, 1.5, "139 30 145", 4)]
    [InlineData(1, 2, 1, 256, 1.0, null, null, "130", 2)]
    [InlineData(1, 2, 2, 16, 1.0, 1L, null, "1", 2)]
    public void EqualsTheLayerOnCpu(int batch, int heads, int groups, int headWidth, double turning, long? window, double? cap, string prompts, int steps)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(4);
        long[] lengths = [.. prompts.Split(' ').Select(long.Parse)];
        const int width = 24;
        using var attention = new MultiHeadAttention(width, new AttentionOptions
        {
            NumHeads = heads, NumKeyValueHeads = groups, HeadDim = headWidth, UseRope = turning > 0, PartialRotaryFactor = turning > 0 ? turning : 1,
            WindowSize = window, SoftCap = cap, UseBias = true,
        });
        attention.eval();
        using var state = attention.CreateState(batch);
        attention.forward(randn(batch, lengths.Max(), width), new MixerContext { State = state, Lengths = lengths });
        using var other = (KeyValueState)state.Clone();
        for (var step = 0; step < steps; step++)
        {
            var token = randn(batch, 1, width) * 3;
            var expected = attention.forward(token, new MixerContext { State = state });
            var launches = HostCuda.Runtime().Launches;
            using var place = HostCuda.InPlaceOfTheCpu();
            TensorAssert.Close(expected, attention.forward(token, new MixerContext { State = other }), Tolerance, $"y of step {step}");

            // Four projections, and all between them; a first call may launch self-tests too.
            Assert.True(step == 0 || HostCuda.Runtime().Launches == launches + 4 + 1, $"{HostCuda.Runtime().Launches - launches} launches");
        }

        Assert.Equal(state.Positions, other.Positions);
        TensorAssert.Close(((KeyValueState)state).Keys, other.Keys, Tolerance, "keys");
        TensorAssert.Close(((KeyValueState)state).Values, other.Values, Tolerance, "values");
    }

    /// <summary>In half precision the cache and the result are rounded, and nothing between them.</summary>
    [Theory]
    [InlineData(ScalarType.BFloat16, 16, 1.0 / 256)]
    [InlineData(ScalarType.BFloat16, 13, 1.0 / 256)]
    [InlineData(ScalarType.Float16, 16, 1.0 / 2048)]
    public void HalfPrecisionIsComputedInSinglePrecision(ScalarType dtype, long width, double rounding)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        using var wideBuffers = new StepBuffers();
        manual_seed(6);
        const long batch = 2, heads = 6, groups = 2, prompt = 200;
        var options = new AttentionOptions { NumHeads = heads };
        var rotary = new RotaryEmbedding(12);
        using var half = KeyValueState.Create(batch, groups, width, null, null, rotary.Settings, dtype, CPU);
        using var wide = KeyValueState.Create(batch, groups, width, null, null, rotary.Settings, ScalarType.Float32, CPU);
        var (keys, values) = (randn(batch, groups, prompt, width).to_type(dtype), randn(batch, groups, prompt, width).to_type(dtype));
        Fill(half, keys, values);
        Fill(wide, Wide(keys), Wide(values));
        var kernel = new AttentionStepOnCuda(HostCuda.Runtime());
        for (var step = 0; step < 2; step++)
        {
            buffers.Begin();
            wideBuffers.Begin();
            var (query, key, value) = (
                randn(batch, 1, heads * width).to_type(dtype), randn(batch, 1, groups * width).to_type(dtype), randn(batch, 1, groups * width).to_type(dtype));
            var y = kernel.Apply(query, key, value, half, options, rotary, buffers);
            var expected = kernel.Apply(Wide(query), Wide(key), Wide(value), wide, options, rotary, wideBuffers);
            half.Advance(1, null);
            wide.Advance(1, null);
            Assert.Equal(dtype, y.dtype);
            TensorAssert.Close(expected, y, rounding, $"y of step {step}");
            TensorAssert.Close(wide.Keys, half.Keys, rounding, "keys");
            TensorAssert.Identical(wide.Values, Wide(half.Values), "values");
        }

        static void Fill(KeyValueState state, Tensor keys, Tensor values)
        {
            state.Append(keys, values);
            state.Advance(keys, values, null);
        }
    }

    /// <summary>The angle of a late position is as exact as the product of float32 that the definition takes it from.</summary>
    [Fact]
    public void LatePositionsTurnAsTheDefinitionHasThem()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var buffers = new StepBuffers();
        manual_seed(7);
        const long width = 16, late = 200_000, window = 4;
        var rotary = new RotaryEmbedding(width);
        using var state = KeyValueState.Create(1, 1, width, null, window, rotary.Settings, ScalarType.Float32, CPU);
        state.Advance(late, null);
        var (query, key, value) = (randn(1, 1, width), randn(1, 1, width), randn(1, 1, width));
        new AttentionStepOnCuda(HostCuda.Runtime()).Apply(query, key, value, state, new AttentionOptions { NumHeads = 1, WindowSize = window }, rotary, buffers);
        var turned = Rotation.Reference(key.unsqueeze(1), rotary.Angles(tensor(new[] { late }).unsqueeze(0)));
        TensorAssert.Close(turned, state.Keys.narrow(2, late % window, 1), 1e-6, "the turned key");
    }

    [Fact]
    public void WhatDoesNotFitIsNamed()
    {
        Assert.Equal("", Problem(2, 16, 16));
        Assert.Equal("a head has 257 channels; the kernel takes 256", Problem(2, 257, 2));
        Assert.Equal("129 pairs of channels turn; the kernel takes 128", Problem(2, 256, 258));
        Assert.Equal("65 rows have positions of their own; the kernel takes 64", Problem(65, 16, 16));
        Assert.Equal("the cache is Float32; the input is BFloat16", Problem(2, 16, 16, ScalarType.BFloat16));

        static string Problem(long batch, long width, long turning, ScalarType dtype = ScalarType.Float32)
        {
            using var scope = NewDisposeScope();
            using var state = KeyValueState.Create(batch, 1, width, null, null, "none", ScalarType.Float32, CPU);
            state.Advance(2, [.. Enumerable.Range(0, (int)batch).Select(row => row == 0 ? 2L : 1L)]);
            return AttentionStepOnCuda.Misfit(dtype, state.BuffersFor(1).Keys, state, new RotaryEmbedding(turning));
        }
    }

    private static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float32);
}
