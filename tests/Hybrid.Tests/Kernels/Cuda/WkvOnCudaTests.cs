using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The CUDA kernels of RWKV's weighted mean, on a CPU in the place of a device.</summary>
public class WkvOnCudaTests
{
    // Rounding of a float32 kernel over up to about a thousand steps, whose exponents have magnitudes of about ten.
    private const double Tolerance = 2e-5;

    [Theory]
    [InlineData(WkvForm.Rwkv4, 1, 2, 1, "")]
    [InlineData(WkvForm.DataDependent, 1, 1, 1, "state")]
    [InlineData(WkvForm.Rwkv4, 2, 17, 3, "state")]
    [InlineData(WkvForm.DataDependent, 2, 63, 33, "state restart")]
    [InlineData(WkvForm.Rwkv4, 3, 65, 12, "mask")]
    [InlineData(WkvForm.DataDependent, 2, 128, 5, "state mask")]
    [InlineData(WkvForm.Rwkv4, 2, 130, 7, "state restart")]
    [InlineData(WkvForm.DataDependent, 1, 200, 3, "huge")]
    [InlineData(WkvForm.Rwkv4, 1, 200, 3, "state huge")]
    [InlineData(WkvForm.Rwkv4, 2, 1000, 3, "state mask")]
    [InlineData(WkvForm.DataDependent, 1030, 66, 4, "")]
    [InlineData(WkvForm.Rwkv4, 2, 130, 7, "state mask restart receptance")]
    [InlineData(WkvForm.DataDependent, 3, 65, 12, "mask receptance")]
    [InlineData(WkvForm.Rwkv4, 1, 2, 3, "receptance")]
    public void EqualsTheReference(WkvForm form, long batch, long time, long channels, string with) =>
        Check(new WkvOnCuda(HostCuda.Runtime()), CPU, form, batch, time, channels, with);

    [Theory]
    [InlineData(WkvForm.Rwkv4, 2, 1000, 96, "state")]
    [InlineData(WkvForm.DataDependent, 3, 1025, 33, "state restart")]
    [InlineData(WkvForm.DataDependent, 2, 300, 7, "state mask")]
    public void EqualsTheReferenceOnADevice(WkvForm form, long batch, long time, long channels, string with)
    {
        Assert.SkipUnless(cuda.is_available(), "there is no CUDA device, or the libtorch is one for CPUs");
        using var key = ones(1, device: CUDA);
        var kernel = Wkv.OnCuda.For(("key", key));
        Assert.NotNull(kernel);
        Check(kernel, CUDA, form, batch, time, channels, with);
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, 1e-2)]
    [InlineData(ScalarType.Float16, 2e-3)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType type, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(23);
        var kernel = new WkvOnCuda(HostCuda.Runtime());
        Tensor[] inputs =
        [
            randn(2, 140, 11).to_type(type), randn(11), randn(2, 140, 11).to_type(type), randn(2, 140, 11).to_type(type), randn(2, 140, 11).to_type(type),
        ];
        Differentiation.HalfEqualsWide(
            inputs, randn(2, 140, 11).to_type(type), x => [Wkv.Cuda(kernel, WkvForm.DataDependent, x[0], x[1], x[2], x[3], x[4], null, null, null).Y],
            x => [Wkv.Reference(WkvForm.DataDependent, x[0], x[1], x[2], x[3], x[4], null, null, null).Y], rounding);
    }

    [Theory]
    [InlineData(WkvForm.Rwkv4)]
    [InlineData(WkvForm.DataDependent)]
    public void ASecondDerivativeIsThatOfTheReference(WkvForm form)
    {
        using var scope = NewDisposeScope();
        manual_seed(24);
        var kernel = new WkvOnCuda(HostCuda.Runtime());
        var (decay, bonus, k, v, r) = (form == WkvForm.Rwkv4 ? randn(3) : randn(2, 40, 3), randn(3), randn(2, 40, 3), randn(2, 40, 3), randn(2, 40, 3));
        TensorAssert.Close(
            Differentiation.Second([decay, k], x => Wkv.Reference(form, x[0], bonus, x[1], v, r, null, null, null).Y),
            Differentiation.Second([decay, k], x => Wkv.Cuda(kernel, form, x[0], bonus, x[1], v, r, null, null, null, stateGradient: false).Y), 1e-4,
            "second derivative");
    }

    private static void Check(WkvOnCuda kernel, Device device, WkvForm form, long batch, long time, long channels, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(21);
        var key = randn(batch, time, channels) * (Has("huge") ? 40 : 2);
        Tensor[] state = Has("state") ? [randn(batch, channels), randn(batch, channels).exp(), randn(batch, channels)] : [];
        Tensor[] inputs =
        [
            form == WkvForm.Rwkv4 ? randn(channels) : randn(batch, time, channels), randn(channels), key, randn(batch, time, channels), .. state,
            .. Has("receptance") ? new[] { randn(batch, time, channels) } : [],
        ];

        Tensor[] upstream = [.. new[] { randn(batch, time, channels), randn(batch, channels), randn(batch, channels) }.Select(gradient => gradient.to(device))];
        var mask = Has("mask") ? rand(batch, time).gt(0.3).to(device) : null;
        var restart = Has("restart") ? rand(batch, time).gt(0.9).to(device) : null;

        // Maxima are rounded on the way; the sums make up for it, so they are compared relative to one maximum.
        Tensor? anchor = null;
        var reference = Results(ScalarType.Float64, x => Wkv.Reference(form, x[0], x[1], x[2], x[3], ReceptanceOf(x), StateOf(x), mask, restart));
        var fast = Results(ScalarType.Float32, x => Wkv.Cuda(kernel, form, x[0], x[1], x[2], x[3], ReceptanceOf(x), StateOf(x), mask, restart));
        string[] names = ["y", "numerator", "denominator", "maximum"];
        foreach (var (i, expected) in reference.Index())
        {
            TensorAssert.Close(expected, fast[i], Tolerance, i < 4 ? names[i] : $"gradient of input {i - 4}");
        }

        bool Has(string part) => with.Contains(part, StringComparison.Ordinal);

        WkvState? StateOf(Tensor[] x) => Has("state") ? new WkvState(x[4], x[5], x[6]) : null;

        Tensor? ReceptanceOf(Tensor[] x) => Has("receptance") ? x[^1] : null;

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], (Tensor Y, WkvState State)> run)
        {
            var x = inputs.Select(input => input.detach().to(device).to_type(dtype).clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            anchor ??= state.Maximum.detach();
            var scale = (state.Maximum.detach() - anchor).exp();
            var (numerator, denominator) = (state.Numerator * scale, state.Denominator * scale);
            ((y * upstream[0]).sum() + (numerator * upstream[1]).sum() + (denominator * upstream[2]).sum()).backward();
            return [y, numerator, denominator, state.Maximum, .. x.Select(leaf => leaf.grad!)];
        }
    }
}
