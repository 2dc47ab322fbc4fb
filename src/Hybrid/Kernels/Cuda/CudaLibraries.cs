using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Hybrid.Kernels.Cuda;

/// <summary>
/// Finds the CUDA driver, which the system has, and NVRTC, which lies beside libtorch's own libraries in TorchSharp's CUDA packages (on
/// Linux with a hash in its name) or in an installed toolkit. Nothing is loaded before the first CUDA tensor asks for a kernel.
/// </summary>
internal static class CudaLibraries
{
    /// <summary>The environment variable that names an NVRTC library; it comes before all others.</summary>
    public const string NvrtcVariable = "HYBRID_NVRTC";

    /// <summary>Names of the driver, by which the system finds it.</summary>
    public static IEnumerable<string> Driver => OperatingSystem.IsWindows() ? ["nvcuda.dll"] : ["libcuda.so.1", "libcuda.so"];

    /// <summary>Where NVRTC may be, best first.</summary>
    public static IEnumerable<string> Nvrtc()
    {
        if (Environment.GetEnvironmentVariable(NvrtcVariable) is { Length: > 0 } chosen)
        {
            return [chosen];
        }

        return [.. Folders().Distinct().SelectMany(NvrtcFiles), .. NvrtcNames];
    }

    /// <summary>The first library that loads; 0, and what was tried, where none does.</summary>
    public static nint Load(IEnumerable<string> candidates, out string tried)
    {
        var names = new List<string>();
        foreach (var candidate in candidates)
        {
            if (NativeLibrary.TryLoad(candidate, out var handle))
            {
                tried = "";
                return handle;
            }

            names.Add(candidate);
        }

        tried = string.Join(", ", names);
        return 0;
    }

    /// <summary>NVRTC libraries of a folder, newest major version first; helpers of NVRTC have similar names.</summary>
    internal static IEnumerable<string> NvrtcFiles(string folder)
    {
        if (!Directory.Exists(folder))
        {
            return [];
        }

        var pattern = OperatingSystem.IsWindows() ? "nvrtc64_*.dll" : "libnvrtc*.so*";
        return Directory.EnumerateFiles(folder, pattern)
            .Where(file => Path.GetFileName(file) is var name
                && !name.Contains("builtins", StringComparison.Ordinal) && !name.Contains(".alt.", StringComparison.Ordinal))
            .OrderByDescending(Path.GetFileName, StringComparer.Ordinal);
    }

    private static IEnumerable<string> NvrtcNames =>
        OperatingSystem.IsWindows()
            ? ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
            : ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

    /// <summary>Folders of the native libraries that TorchSharp has loaded, then those where packages and toolkits put theirs.</summary>
    private static IEnumerable<string> Folders()
    {
        using var process = Process.GetCurrentProcess();
        var loaded = process.Modules.Cast<ProcessModule>()
            .Where(module => module.ModuleName.Contains("torch", StringComparison.OrdinalIgnoreCase))
            .Select(module => Path.GetDirectoryName(module.FileName));
        var toolkit = Environment.GetEnvironmentVariable("CUDA_PATH") ?? Environment.GetEnvironmentVariable("CUDA_HOME");
        string?[] others =
        [
            AppContext.BaseDirectory,
            Path.Combine(AppContext.BaseDirectory, "runtimes", RuntimeInformation.RuntimeIdentifier, "native"),
            toolkit is null ? null : Path.Combine(toolkit, OperatingSystem.IsWindows() ? "bin" : "lib64"),
        ];
        return loaded.Concat(others).OfType<string>();
    }
}
