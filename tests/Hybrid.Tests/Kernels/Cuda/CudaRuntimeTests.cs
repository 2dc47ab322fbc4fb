using System.Runtime.InteropServices;
using Hybrid.Kernels;
using Hybrid.Kernels.Cuda;
using Hybrid.Tests.Checkpoints;
using Hybrid.Tests.Infrastructure;
using Microsoft.Extensions.Logging.Abstractions;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>Libraries, cache and launches, on a CPU in the place of a device.</summary>
public class CudaRuntimeTests
{
    private static readonly CudaProgram Convolution = ConvolutionWithStructOf(Marshal.SizeOf<ConvArguments>());

    [Fact]
    public void WithoutADriverOrACompilerTheReasonIsGiven()
    {
        HostCuda.Runtime();
        var cache = new CudaKernelCache("unused");
        Assert.Equal(
            (null, "there is no CUDA driver (libno_driver.so, /no/driver.so)"), CudaRuntime.Open(0, ["libno_driver.so", "/no/driver.so"], [HostCuda.Library], cache));
        Assert.Equal(
            (null, "there is no NVRTC (libno_nvrtc.so); HYBRID_NVRTC may name one"), CudaRuntime.Open(0, [HostCuda.Library], ["libno_nvrtc.so"], cache));
        var (runtime, reason) = CudaRuntime.Open(1, [HostCuda.Library], [HostCuda.Library], cache);
        Assert.Null(runtime);
        Assert.Equal("cuDeviceGet failed with 1: invalid argument", reason);
    }

    [Fact]
    public void TensorsOnCpuAreRefusedWithoutLookingForLibraries()
    {
        using var x = zeros(1);
        Assert.False(CudaRuntime.TryGet(out _, out var reason, ("x", x)));
        Assert.Equal("x is on CPU", reason);
    }

    [Fact]
    public void ACompiledFileIsKeptAndFoundAgain()
    {
        HostCuda.Runtime();
        using var folder = new TemporaryFolder();
        Run(Open(folder.Path));
        var file = Assert.Single(Directory.GetFiles(folder.Path));
        Assert.Matches("causal_conv1d-[0-9a-f]{32}\\.bin$", file);
        var written = File.GetLastWriteTimeUtc(file);
        Run(Open(folder.Path));
        Assert.Equal(written, File.GetLastWriteTimeUtc(file));
        Assert.Single(Directory.GetFiles(folder.Path));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1000)]
    public void ADamagedFileIsCompiledAnew(int at)
    {
        HostCuda.Runtime();
        using var folder = new TemporaryFolder();
        Run(Open(folder.Path));
        var file = Assert.Single(Directory.GetFiles(folder.Path));
        var content = File.ReadAllBytes(file);
        var damaged = (byte[])content.Clone();
        damaged[at] ^= 1;
        File.WriteAllBytes(file, at == 0 ? content[..10] : damaged);
        Run(Open(folder.Path));
        Assert.Equal(content.Length, new FileInfo(file).Length);
        Assert.Equal(content[..20], File.ReadAllBytes(file)[..20]);
    }

    [Fact]
    public void AFolderThatCannotBeWrittenIsLoggedAndTheKernelRuns()
    {
        HostCuda.Runtime();
        using var folder = new TemporaryFolder();
        var blocked = Path.Combine(folder.Path, "file");
        File.WriteAllText(blocked, "");
        var log = new ListLogger();
        KernelDispatcher.Logger = log;
        try
        {
            Run(Open(Path.Combine(blocked, "kernels")));
        }
        finally
        {
            KernelDispatcher.Logger = NullLogger.Instance;
        }

        Assert.Contains(log.Messages, message => message.StartsWith("compiled kernels cannot be kept in " + blocked, StringComparison.Ordinal));
    }

    /// <summary>A C# struct that has drifted from the one of the kernels does not compile, whatever the device.</summary>
    [Fact]
    public void AStructOfAnotherSizeDoesNotCompile()
    {
        var runtime = HostCuda.Runtime();
        var error = Assert.Throws<CudaException>(() => runtime.Launch(ConvolutionWithStructOf(8), "causal_conv1d", 1, default(ConvArguments)));
        Assert.StartsWith("causal_conv1d.cu does not compile for sm_86 with", error.Message, StringComparison.Ordinal);
        Assert.Contains("ConvArguments differs from its C# counterpart", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AnUnknownKernelAndALaunchWithoutEndAreErrors()
    {
        var runtime = HostCuda.Runtime();
        var error = Assert.Throws<CudaException>(() => runtime.Launch(Convolution, "no_such_kernel", 1, default(ConvArguments)));
        Assert.Equal("cuModuleGetFunction of no_such_kernel failed with 500: named symbol not found", error.Message);
        error = Assert.Throws<CudaException>(() => runtime.Launch(Convolution, "causal_conv1d", 1L << 39, default(ConvArguments)));
        Assert.Equal("causal_conv1d would take 4294967296 blocks of threads; a launch has at most 2147483647", error.Message);
    }

    [Fact]
    public void NvrtcIsFoundUnderThePackagesNames()
    {
        if (OperatingSystem.IsWindows())
        {
            Assert.Skip("the names are those of Linux");
        }

        using var folder = new TemporaryFolder();
        foreach (var name in new[] { "libnvrtc-b51b459d.so.12", "libnvrtc-builtins.so.12.8", "libnvrtc.alt.so.12", "libtorch_cuda.so" })
        {
            File.WriteAllText(Path.Combine(folder.Path, name), "");
        }

        Assert.Equal([Path.Combine(folder.Path, "libnvrtc-b51b459d.so.12")], CudaLibraries.NvrtcFiles(folder.Path));
        Assert.Empty(CudaLibraries.NvrtcFiles(Path.Combine(folder.Path, "none")));
    }

    private static CudaProgram ConvolutionWithStructOf(int bytes) => CudaProgram.Of(
        "causal_conv1d.cu", ScalarType.Float32, ("WIDTH", 2), ("CHANNELS", 1), ("PACKED", 0), ("SILU", 0), ("CONV_BYTES", bytes));

    private static CudaRuntime Open(string cache)
    {
        var (runtime, reason) = CudaRuntime.Open(0, [HostCuda.Library], [HostCuda.Library], new CudaKernelCache(cache));
        Assert.True(runtime is not null, reason);
        return runtime!;
    }

    private static void Run(CudaRuntime runtime)
    {
        using var scope = NewDisposeScope();
        var tensors = new ConvTensors(ones(1, 3, 2), tensor(new[] { 1f, 2f, 3f, 4f }).view(2, 2), null, null, null, false);
        var y = new ConvOnCuda(runtime).Forward(tensors);
        TensorAssert.Identical(tensor(new[] { 2f, 4f, 3f, 7f, 3f, 7f }).view(1, 3, 2), y, "y");
    }
}
