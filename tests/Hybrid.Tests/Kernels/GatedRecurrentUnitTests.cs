using Hybrid.Kernels;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>The recurrence of the GRU against torch's own, by way of the mixer, which runs either.</summary>
public class GatedRecurrentUnitTests
{
    // Both are float32 computations of the same numbers in another order, over up to six hundred steps.
    private const double Tolerance = 1e-5;

    [Theory]
    [InlineData(1, 1, 1, 1, 1, true)]
    [InlineData(2, 3, 5, 15, 1, true)]
    [InlineData(3, 33, 7, 17, 2, false)]
    [InlineData(5, 20, 16, 64, 1, true)]
    [InlineData(1, 600, 9, 21, 1, true)]
    [InlineData(4, 257, 6, 70, 2, true)]
    public void TheSimdKernelEqualsTorch(long batch, long time, long width, long inner, long layers, bool bias)
    {
        using var scope = NewDisposeScope();
        manual_seed(51);
        using var mixer = new GruMixer(width, new GruOptions { InnerSize = inner, NumLayers = layers, UseBias = bias });
        var (x, hidden) = (randn(batch, time, width), randn(batch, layers, inner));
        var (upstream, upstreamState) = (randn(batch, time, inner), randn(batch, layers, inner));
        Assert.True(GatedRecurrentUnit.Simd.CanRun(("x", x)));

        TensorAssert.AllClose(Results(true), Results(false), Tolerance, "GRU");

        List<Tensor> Results(bool referenceOnly)
        {
            using var kernels = new KernelChoice(referenceOnly);
            mixer.zero_grad();
            var (input, state) = (x.clone().requires_grad_(true), hidden.clone().requires_grad_(true));
            var (y, last) = mixer.Run(input, state, null);
            ((y * upstream).sum() + (last * upstreamState).sum()).backward();
            var weights = mixer.named_parameters().Where(entry => entry.name.StartsWith("layers.", StringComparison.Ordinal));
            return [y, last, input.grad!, state.grad!, .. weights.Select(entry => entry.parameter.grad!.clone())];
        }
    }

    [Fact]
    public void ResultsDoNotDependOnTheNumberOfThreads()
    {
        using var scope = NewDisposeScope();
        manual_seed(52);
        Tensor[] inputs = [randn(7, 40, 3 * 37), randn(3 * 37, 37) * 0.2, randn(3 * 37), randn(7, 37)];

        // y and the gradients of gates and state; those of the weights are sums of the BLAS, whose order is its own.
        ThreadCount.ChangesNothing(() =>
        {
            var all = Differentiation.Results(inputs, x => [GatedRecurrentUnit.Apply(x[0], x[1], x[2], x[3])]);
            return [all[0], all[1], all[4]];
        });
    }

    [Fact]
    public void ARowDoesNotDependOnTheOthers()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(53);
        Tensor[] x = [randn(5, 12, 3 * 19), randn(3 * 19, 19) * 0.2, randn(3 * 19), randn(5, 19)];
        var all = GatedRecurrentUnit.Apply(x[0], x[1], x[2], x[3]);
        x[0][1, 4, 3] = float.NaN;
        var touched = GatedRecurrentUnit.Apply(x[0], x[1], x[2], x[3]);
        for (var row = 0; row < 5; row++)
        {
            var alone = GatedRecurrentUnit.Apply(x[0].narrow(0, row, 1), x[1], x[2], x[3].narrow(0, row, 1));
            if (row == 1)
            {
                TensorAssert.Identical(all[row].narrow(0, 0, 4), touched[row].narrow(0, 0, 4), "what comes before NaN");
                Assert.True(touched[row].narrow(0, 5, 7).isnan().all().ToBoolean(), "NaN reaches all of the state");
            }
            else
            {
                TensorAssert.Identical(alone[0], all[row], $"row {row} alone and in the batch");
                TensorAssert.Identical(all[row], touched[row], $"row {row} beside NaN");
            }
        }
    }

    [Fact]
    public void HalfPrecisionIsComputedInFloat32()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(54);
        Tensor[] x = [.. new[] { randn(2, 30, 3 * 5), randn(3 * 5, 5), randn(3 * 5) }.Select(tensor => tensor.to_type(ScalarType.BFloat16))];
        var y = GatedRecurrentUnit.Apply(x[0], x[1], x[2], null);
        var wide = x.Select(tensor => tensor.to_type(ScalarType.Float32)).ToArray();
        var expected = GatedRecurrentUnit.Apply(wide[0], wide[1], wide[2], null);
        Assert.Equal(ScalarType.BFloat16, y.dtype);
        TensorAssert.Identical(expected.to_type(ScalarType.BFloat16), y, "rounded once, at the end");
    }
}
