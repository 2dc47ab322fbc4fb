using Hybrid.Kernels;
using Hybrid.Kernels.Cuda;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The CUDA kernels on a CUDA device, with the cases of the CPU kernels. Without a device all are skipped.</summary>
public class CudaDeviceTests
{
    // As on CPU, but for exp2 and exp, which are off by two units in the last place on a device.
    private const double Tolerance = 2e-5;
    private const double LongTolerance = 1e-4;

    [Fact]
    public void TheScanEqualsTheReference()
    {
        var scan = new ScanOnCuda(Runtime());
        foreach (var (batch, time, channels, n, formOfB, formOfC, with) in ScanKernelCase.All.Select(row => row.Data))
        {
            ScanKernelCase.Check(scan, CUDA, Tolerance, batch, time, channels, n, formOfB, formOfC, with);
        }

        ScanKernelCase.Check(scan, CUDA, LongTolerance, 2, 1000, 70, 16, "shared", "shared", "mask restart limits");
        ScanKernelCase.Check(scan, CUDA, LongTolerance, 1, 65_536, 3, 4, "shared", "shared", "restart");
    }

    [Fact]
    public void TheConvolutionEqualsTheReference()
    {
        var convolution = new ConvOnCuda(Runtime());
        foreach (var (batch, time, channels, width, with) in ConvKernelCase.All.Select(row => row.Data))
        {
            ConvKernelCase.Check(convolution, CUDA, Tolerance, batch, time, channels, width, with);
        }
    }

    [Fact]
    public void TheDeltaRuleEqualsTheReference()
    {
        var rule = new DeltaOnCuda(Runtime());
        foreach (var (batch, time, heads, keyWidth, valueWidth, with) in DeltaKernelCase.All.Select(row => row.Data))
        {
            DeltaKernelCase.Check(rule, CUDA, Tolerance, batch, time, heads, keyWidth, valueWidth, with);
        }

        DeltaKernelCase.Check(rule, CUDA, Tolerance, 2, 100, 3, 256, 129, "g normalise mask restart initial");
        DeltaKernelCase.Check(rule, CUDA, LongTolerance, 4, 1000, 16, 128, 128, "g normalise initial");
        DeltaKernelCase.Check(rule, CUDA, LongTolerance, 1, 65_536, 1, 32, 5, "g normalise");
    }

    [Fact]
    public void StateSpaceDualityEqualsTheReference()
    {
        var kernel = StateSpaceDuality.Kernel(Runtime());
        foreach (var (batch, time, heads, groups, headWidth, n, with) in DualityKernelCase.All.Select(row => row.Data))
        {
            DualityOnCudaTests.Check(kernel, CUDA, Tolerance, batch, time, heads, groups, headWidth, n, with);
        }

        DualityOnCudaTests.Check(kernel, CUDA, Tolerance, 2, 100, 4, 2, 130, 256, "D z mask restart bias initial");
        DualityOnCudaTests.Check(kernel, CUDA, LongTolerance, 4, 1000, 24, 1, 64, 128, "D z bias");
        DualityOnCudaTests.Check(kernel, CUDA, LongTolerance, 1, 65_536, 1, 1, 5, 16, "D");
    }

    [Fact]
    public void TheNormEqualsTheComposedForm()
    {
        var norm = new NormOnCuda(Runtime());
        foreach (var (rows, width, groups, with) in NormKernelCase.All.Select(row => row.Data))
        {
            NormKernelCase.Check(norm, CUDA, Tolerance, rows, width, groups, with);
        }
    }

    /// <summary>Each kernel passes the self-test that the dispatcher asks for.</summary>
    [Fact]
    public void TheDispatcherTakesTheKernels()
    {
        using var scope = NewDisposeScope();
        Runtime();
        var x = zeros([1, 2, 3], device: CUDA);
        Assert.NotNull(SelectiveScan.OnCuda.For(("u", x)));
        Assert.NotNull(CausalConv1d.OnCuda.For(("x", x)));
        Assert.NotNull(LinearStepOnCuda.OnCuda.For(("x", x)));
        Assert.NotNull(CudaNorm.OnCuda.For(("x", x)));
        Assert.NotNull(GatedDelta.OnCuda.For(("q", x)));
        Assert.NotNull(StateSpaceDuality.OnCuda.For(("x", x)));
    }

    [Fact]
    public void DecodingEqualsTheComposedForm()
    {
        Runtime();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var (batch, width, options) in MambaStepTests.Layers.Select(row => row.Data))
        {
            manual_seed(5);
            using var mixer = new MambaMixer(width, options);
            mixer.to(CUDA);
            var x = Values.Normal(6, batch, 5, width).to(CUDA);
            using var state = mixer.CreateState(batch);
            var steps = Enumerable.Range(0, 5).Select(t => mixer.forward(x.narrow(1, t, 1), new MixerContext { State = state })).ToList();
            using var kernels = new KernelChoice(referenceOnly: true);
            TensorAssert.Close(mixer.call(x).cpu(), cat(steps, 1).cpu(), Tolerance, $"outputs of {options}");
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32, 2e-6)]
    [InlineData(ScalarType.BFloat16, 1.0 / 256)]
    [InlineData(ScalarType.Float16, 1.0 / 2048)]
    public void MatrixVectorProductsEqualTheMatrixProduct(ScalarType dtype, double tolerance)
    {
        Runtime();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var (rows, width, outputs) in new[] { (1, 7, 130), (1, 768, 3072), (2, 1000, 33), (8, 264, 17) })
        {
            var (x, weight) = (Values.Normal(1, rows, width).to_type(dtype), Values.Normal(2, outputs, width).to_type(dtype));
            var y = LinearStep.Linear(x.to(CUDA), weight.to(CUDA));
            TensorAssert.Close(nn.functional.linear(x.@double(), weight.@double()), y.cpu(), tolerance, $"{rows} x {width} x {outputs}");
        }
    }

    /// <summary>The first device's kernels; skips the test where there is no device.</summary>
    private static CudaRuntime Runtime()
    {
        if (!cuda.is_available())
        {
            Assert.Skip("there is no CUDA device");
        }

        using var x = zeros([1], device: CUDA);
        Assert.True(CudaRuntime.TryGet(out var runtime, out var reason, ("x", x)), reason);
        return runtime;
    }
}
