using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The linear recurrence's CUDA kernels, on a CPU in the place of a device.</summary>
public class RecurrenceOnCudaTests
{
    // Rounding of a float32 kernel over up to about a thousand steps.
    private const double Tolerance = 1e-5;

    /// <summary>1,030 rows of 130 channels leave room for one chunk only; minus infinity forgets everything.</summary>
    [Theory]
    [InlineData(1, 1, 1, "")]
    [InlineData(2, 2, 3, "state")]
    [InlineData(2, 63, 33, "state restart")]
    [InlineData(3, 65, 129, "mask")]
    [InlineData(1, 128, 5, "state mask")]
    [InlineData(2, 129, 7, "state restart")]
    [InlineData(2, 200, 3, "forget")]
    [InlineData(1, 1000, 4, "state mask forget")]
    [InlineData(1030, 130, 5, "state")]
    [InlineData(1, 20_000, 2, "state restart")]
    public void EqualsTheReference(long batch, long time, long channels, string with) =>
        Check(new RecurrenceOnCuda(HostCuda.Runtime()), CPU, Tolerance, batch, time, channels, with);

    [Theory]
    [InlineData(2, 1000, 96, "state")]
    [InlineData(3, 4097, 33, "state restart")]
    [InlineData(2, 300, 7, "state mask")]
    public void EqualsTheReferenceOnADevice(long batch, long time, long channels, string with)
    {
        Assert.SkipUnless(cuda.is_available(), "there is no CUDA device, or the libtorch is one for CPUs");
        using var x = ones(1, device: CUDA);
        var kernel = LinearRecurrence.OnCuda.For(("x", x));
        Assert.NotNull(kernel);
        Check(kernel, CUDA, Tolerance, batch, time, channels, with);
    }

    [Fact]
    public void ReadsSlicesOfLargerTensors()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        var (wide, decays) = (randn(2, 150, 50), randn(2, 160, 20).exp().neg());
        var (x, g) = (wide.narrow(2, 21, 20), decays.narrow(1, 3, 150));
        var (y, last) = LinearRecurrence.Cuda(kernel, x, g, null, null, null);
        var (expected, expectedLast) = LinearRecurrence.Cuda(kernel, x.contiguous(), g.contiguous(), null, null, null);
        TensorAssert.Identical(expected, y, "slices and copies");
        TensorAssert.Identical(expectedLast, last, "states of slices and copies");
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, ScalarType.BFloat16, 1e-2)]
    [InlineData(ScalarType.Float16, ScalarType.Float16, 2e-3)]
    [InlineData(ScalarType.BFloat16, ScalarType.Float32, 1e-2)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType type, ScalarType decayType, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(23);
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        Tensor[] inputs = [randn(2, 170, 37).to_type(type), randn(2, 170, 37).exp().neg().to_type(decayType), randn(2, 37)];
        Differentiation.HalfEqualsWide(
            inputs, randn(2, 170, 37).to_type(type), x => LinearRecurrence.Cuda(kernel, x[0], x[1], x[2], null, null),
            x => LinearRecurrence.Reference(x[0], x[1], x[2], null, null), rounding, Tolerance);
    }

    [Fact]
    public void ASecondDerivativeIsThatOfTheReference()
    {
        using var scope = NewDisposeScope();
        manual_seed(24);
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        Tensor[] inputs = [randn(2, 70, 3), randn(2, 70, 3).exp().neg()];
        TensorAssert.Close(
            Differentiation.Second(inputs, x => LinearRecurrence.Reference(x[0], x[1], null, null, null).Y),
            Differentiation.Second(inputs, x => LinearRecurrence.Cuda(kernel, x[0], x[1], null, null, null, stateGradient: false).Y), Tolerance,
            "second derivative");
    }

    [Fact]
    public void AStateWithoutGradientIsLeftOutOfTheGraphAndNothingStaysBehind()
    {
        var kernel = new RecurrenceOnCuda(HostCuda.Runtime());
        Run();
        var before = LiveTensors.Before();
        Run();
        Assert.Equal(before, Tensor.TotalCount);

        void Run()
        {
            using var scope = NewDisposeScope();
            var (x, g) = (ones(2, 70, 3).requires_grad_(true), zeros(2, 70, 3) - 0.5);
            var (y, state) = LinearRecurrence.Cuda(kernel, x, g, null, null, null, stateGradient: false);
            Assert.False(state.requires_grad);
            y.sum().backward();
            Assert.Equal(1, x.grad![0][69][0].item<float>());
        }
    }

    private static void Check(RecurrenceOnCuda kernel, Device device, double tolerance, long batch, long time, long channels, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(21);
        var decay = randn(batch, time, channels).exp().neg();
        decay = Has("forget") ? decay.masked_fill(rand(batch, time, channels).gt(0.9), double.NegativeInfinity) : decay;
        Tensor[] inputs = Has("state") ? [randn(batch, time, channels), decay, randn(batch, channels)] : [randn(batch, time, channels), decay];
        var (upstreamY, upstreamState) = (randn(batch, time, channels).to(device), randn(batch, channels).to(device));
        var mask = Has("mask") ? rand(batch, time).gt(0.3).to(device) : null;
        var restart = Has("restart") ? rand(batch, time).gt(0.9).to(device) : null;

        var reference = Results(x => LinearRecurrence.Reference(x[0], x[1], x.ElementAtOrDefault(2), mask, restart));
        var fast = Results(x => LinearRecurrence.Cuda(kernel, x[0], x[1], x.ElementAtOrDefault(2), mask, restart));
        string[] names = ["y", "state", "gradient of x", "gradient of the decay", "gradient of the initial state"];
        foreach (var (i, expected) in reference.Index())
        {
            TensorAssert.Close(expected, fast[i], tolerance, names[i]);
        }

        bool Has(string part) => with.Contains(part, StringComparison.Ordinal);

        List<Tensor> Results(Func<Tensor[], (Tensor Y, Tensor State)> run)
        {
            var x = inputs.Select(input => input.detach().to(device).clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            ((y * upstreamY).sum() + (state * upstreamState).sum()).backward();
            return [y, state, .. x.Select(leaf => leaf.grad!)];
        }
    }
}
