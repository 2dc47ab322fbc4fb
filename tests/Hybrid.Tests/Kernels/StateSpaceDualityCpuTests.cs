using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>The SIMD kernel of state-space duality: chunks of 32 steps, tiles of four rows by two registers.</summary>
public class StateSpaceDualityCpuTests
{
    // float32 against float64 over up to 100 steps; gradients of B and C sum over heads, that of A over all steps.
    private const double Tolerance = 1e-5;

    /// <summary>Ragged ends of chunks, tiles and registers of every width, and every optional input, one without the others.</summary>
    public static TheoryData<long, long, long, long, long, long, string> Sizes => new()
    {
        { 1, 1, 1, 1, 1, 1, "" },
        { 2, 2, 2, 1, 3, 5, "D z bias initial" },
        { 1, 31, 6, 2, 7, 4, "mask" },
        { 2, 32, 3, 3, 8, 16, "restart" },
        { 1, 33, 4, 2, 9, 3, "limits bias" },
        { 2, 63, 2, 1, 15, 31, "D of channels" },
        { 1, 64, 2, 2, 16, 32, "z" },
        { 1, 65, 4, 1, 17, 33, "initial" },
        { 2, 97, 4, 2, 33, 6, "D of channels z mask restart limits bias initial" },
        { 1, 100, 2, 1, 70, 65, "D z bias" },
    };

    [Theory]
    [MemberData(nameof(Sizes))]
    public void EqualsTheReferenceInFloat64(long batch, long time, long heads, long groups, long headWidth, long n, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(9);
        var inputs = Inputs(batch, time, heads, groups, headWidth, n, with);
        var mask = Has("mask") ? rand(batch, time).gt(0.3) : null;
        var restart = Has("restart") ? rand(batch, time).gt(0.8) : null;
        (double? min, double? max) = Has("limits") ? (0.3, 1.5) : (null as double?, null as double?);
        var (upstreamY, upstreamState) = (randn(batch, time, heads, headWidth), randn(batch, heads, headWidth, n));
        Assert.True(StateSpaceDuality.CanRunOnCpu(out var reason, ("x", inputs[0])), reason);

        var expected = Results(ScalarType.Float64, x => StateSpaceDuality.Reference(
            x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], true, min, max, x[8], mask, restart, StateSpaceDuality.DefaultChunkSize));
        var actual = Results(ScalarType.Float32, x => StateSpaceDuality.Apply(
            x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], true, min, max, x[8], mask, restart));
        for (var i = 0; i < expected.Count; i++)
        {
            TensorAssert.Close(expected[i], actual[i], Tolerance, $"tensor {i} of y, state and the gradients of the inputs");
        }

        bool Has(string what) => with.Contains(what, StringComparison.Ordinal);

        List<Tensor> Results(ScalarType dtype, Func<Tensor?[], (Tensor Y, Tensor State)> run)
        {
            var x = inputs.Select(input => input?.to_type(dtype).detach().clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            ((y * upstreamY).sum() + (state * upstreamState).sum()).backward();
            return [y, state, .. x.Where(leaf => leaf is not null).Select(leaf => leaf!.grad!)];
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AnOutputThatReceivesNoGradientPassesNoneOn(bool ofState)
    {
        using var scope = NewDisposeScope();
        manual_seed(12);
        var inputs = Inputs(1, 40, 2, 1, 5, 3, "initial");
        var expected = Gradients(ScalarType.Float64);
        foreach (var (gradient, actual) in expected.Zip(Gradients(ScalarType.Float32)))
        {
            TensorAssert.Close(gradient, actual, Tolerance, "gradient");
        }

        Tensor[] Gradients(ScalarType dtype)
        {
            var x = inputs.Where(input => input is not null).Select(input => input!.to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (y, state) = StateSpaceDuality.Apply(x[0], x[1], x[2], x[3], x[4], dtSoftplus: true, initialState: x[5]);
            (ofState ? state : y).square().sum().backward();
            return [.. x.Select(leaf => leaf.grad ?? zeros_like(leaf))];
        }
    }

    [Fact]
    public void ResultsDoNotDependOnTheNumberOfThreads()
    {
        using var scope = NewDisposeScope();
        manual_seed(10);
        var inputs = Inputs(2, 70, 8, 2, 33, 20, "D bias");
        var upstream = randn(2, 70, 8, 33);
        var alone = Results(1);
        foreach (var threads in new[] { 2, 3 })
        {
            foreach (var (expected, actual) in alone.Zip(Results(threads)))
            {
                TensorAssert.Identical(expected, actual, $"{threads} threads");
            }
        }

        Tensor[] Results(int threads)
        {
            using var count = new ThreadCount(threads);
            var x = inputs.Select(input => input?.detach().clone().requires_grad_(true)).ToArray();
            var (y, state) = StateSpaceDuality.Apply(x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], null, x[7], true, stateGradient: false);
            y.backward([upstream]);
            return [y, state, .. x.Where(leaf => leaf is not null).Select(leaf => leaf!.grad!)];
        }
    }

    [Fact]
    public void NaNStaysInItsChannelAndItsFuture()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(24);
        var inputs = Inputs(1, 70, 2, 1, 20, 3, "");
        inputs[0]![0, 40, 1, 7] = float.NaN;
        var (y, state) = StateSpaceDuality.Apply(inputs[0]!, inputs[1]!, inputs[2]!, inputs[3]!, inputs[4]!, dtSoftplus: true);
        var expected = zeros([1, 70, 2, 20], dtype: ScalarType.Bool);
        expected[0, TensorIndex.Slice(40), 1, 7] = true;
        TensorAssert.Identical(expected, y.isnan(), "where y is NaN");
        Assert.Equal(3, state.isnan().sum().ToInt64());
    }

    [Fact]
    public void SlicesOfLargerTensorsAreReadInPlace()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var wide = randn(2, 40, (4 * 5) + (2 * 2 * 3) + 4);
        var parts = wide.split([20, 6, 6, 4], -1);
        var a = -randn(4).exp();
        Tensor[] slices = [parts[0].unflatten(2, 4, 5), parts[3], parts[1].unflatten(2, 2, 3), parts[2].unflatten(2, 2, 3)];
        var copies = slices.Select(slice => slice.contiguous()).ToArray();
        var (y, state) = StateSpaceDuality.Apply(slices[0], slices[1], a, slices[2], slices[3], dtSoftplus: true);
        var (expected, expectedState) = StateSpaceDuality.Apply(copies[0], copies[1], a, copies[2], copies[3], dtSoftplus: true);
        TensorAssert.Identical(expected, y, "y");
        TensorAssert.Identical(expectedState, state, "state");
    }

    [Fact]
    public void WhatCannotRunSaysWhy()
    {
        using var scope = NewDisposeScope();
        Assert.False(StateSpaceDuality.CanRunOnCpu(out var reason, ("x", zeros([1, 1, 1, 1], dtype: ScalarType.Float64))));
        Assert.Equal("x is Float64", reason);
    }

    /// <summary>x, dt, A, B, C, D, z, dtBias and initialState, those that are optional where they are named.</summary>
    private static Tensor?[] Inputs(long batch, long time, long heads, long groups, long headWidth, long n, string with)
    {
        bool Has(string what) => with.Contains(what, StringComparison.Ordinal);
        return
        [
            randn(batch, time, heads, headWidth), randn(batch, time, heads), -randn(heads).exp(), randn(batch, time, groups, n),
            randn(batch, time, groups, n), Has("D of channels") ? randn(heads, headWidth) : Has("D") ? randn(heads) : null,
            Has("z") ? randn(batch, time, heads, headWidth) : null, Has("bias") ? randn(heads) : null,
            Has("initial") ? randn(batch, heads, headWidth, n) : null,
        ];
    }
}
