using System.Diagnostics;
using System.Security.Cryptography;
using Hybrid.Kernels.Cuda;
using Xunit;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>
/// A CPU in the place of a CUDA device: libraries with the functions of the driver and of NVRTC, compiled here by g++ from host_cuda.cpp.
/// Bindings, cache, argument structs and launches are the real ones; kernels run thread by thread on the memory of CPU tensors.
/// </summary>
internal static class HostCuda
{
    private static readonly Lazy<(CudaRuntime? Runtime, string Reason)> Opened = new(Open);

    /// <summary>Where host_cuda.cpp and host.h are.</summary>
    public static string Sources => Path.Combine(AppContext.BaseDirectory, "Kernels", "Cuda");

    /// <summary>The library that answers for the driver and for NVRTC; empty without a compiler.</summary>
    public static string Library { get; private set; } = "";

    /// <summary>The device. Skips the test, with the reason, where there is no compiler.</summary>
    public static CudaRuntime Runtime()
    {
        var (runtime, reason) = Opened.Value;
        if (runtime is null)
        {
            Assert.Skip(reason);
        }

        return runtime;
    }

    /// <summary>Until disposed, layers on the CPU go the way of CUDA tensors, to the kernels of <see cref="Runtime"/>. Skips as that does.</summary>
    public static IDisposable InPlaceOfTheCpu()
    {
        CudaRuntime.StandIn = Runtime();
        return new End();
    }

    private static (CudaRuntime? Runtime, string Reason) Open()
    {
        if (!OperatingSystem.IsLinux())
        {
            return (null, "the stand-in for a CUDA device is compiled on Linux only");
        }

        string[] files = [Path.Combine(Sources, "host_cuda.cpp"), Path.Combine(Sources, "host.h")];
        var hash = Convert.ToHexStringLower(SHA256.HashData([.. files.SelectMany(File.ReadAllBytes)]).AsSpan(0, 8));
        var folder = Path.Combine(AppContext.BaseDirectory, "host-cuda", hash);
        var library = Path.Combine(folder, "libhost_cuda.so");
        if (!File.Exists(library))
        {
            Directory.CreateDirectory(folder);
            var temporary = Path.Combine(folder, Path.GetRandomFileName());
            if (Compile(files[0], temporary) is { } problem)
            {
                return (null, problem);
            }

            File.Move(temporary, library, overwrite: true);
        }

        Library = library;
        return CudaRuntime.Open(0, [library], [library], new CudaKernelCache(Path.Combine(folder, "kernels")), isStandIn: true);
    }

    /// <summary>Null, or why there is no library.</summary>
    private static string? Compile(string source, string target)
    {
        string[] arguments = ["-std=c++17", "-O1", "-shared", "-fPIC", $"-DHOST_FOLDER=\"{Sources}\"", source, "-o", target, "-ldl"];
        try
        {
            using var compiler = Process.Start(new ProcessStartInfo("g++", arguments) { RedirectStandardError = true })!;
            var said = compiler.StandardError.ReadToEnd();
            compiler.WaitForExit();
            return compiler.ExitCode == 0 ? null : throw new InvalidOperationException($"host_cuda.cpp does not compile: {said}");
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return "there is no g++ to compile the stand-in for a CUDA device with";
        }
    }

    private sealed class End : IDisposable
    {
        public void Dispose() => CudaRuntime.StandIn = null;
    }
}
