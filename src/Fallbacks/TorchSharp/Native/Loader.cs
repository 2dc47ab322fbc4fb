using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text;

namespace TorchSharp.Native;

/// <summary>Finds the shim and prepares the process for the libtorch behind it.</summary>
internal static unsafe class Loader
{
    public static nint Load(string library, Assembly assembly, DllImportSearchPath? path)
    {
        if (library != Shim.Library) return 0;
        ChooseOpenBlasKernels();
        LetIdleThreadsSleep();
        KeepFreedMemory();
        var file = $"lib{Shim.Library}.so";
        string[] folders = [AppContext.BaseDirectory, Path.GetDirectoryName(assembly.Location) ?? ""];
        foreach (var candidate in folders.Select(folder => Path.Combine(folder, file)))
        {
            if (!File.Exists(candidate)) continue;
            var loaded = NativeLibrary.Load(candidate);
            UseAllProcessors(loaded);
            return loaded;
        }
        throw new DllNotFoundException(
            $"TorchSharp fallback: {file} is not beside the application ({string.Join(", ", folders.Select(Path.TrimEndingDirectorySeparator).Distinct())}). " +
            "Run ./build.sh build at the repository root; it compiles that library against the libtorch of this machine.");
    }

    // OpenBLAS before 0.3.22 takes newer processors for a Prescott and then multiplies at a third of their speed.
    private static void ChooseOpenBlasKernels()
    {
        var kernels = Avx512F.IsSupported ? "SkylakeX" : Avx2.IsSupported ? "Haswell" : null;
        if (kernels is not null) SetUnlessSet("OPENBLAS_CORETYPE", kernels);
    }

    // libtorch, its BLAS and .NET each have a thread pool on the same processors. OpenMP's threads would spin after every operation
    // and keep the others from theirs.
    private static void LetIdleThreadsSleep() => SetUnlessSet("OMP_WAIT_POLICY", "passive");

    // glibc gives large freed blocks back to the system, and each new tensor then faults its pages in again: a third of the time of a
    // training step over thousands of tokens. It keeps up to 2 GiB of them here, unless the user has said something about malloc.
    private static void KeepFreedMemory()
    {
        string[] settings = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"];
        if (settings.Any(name => !string.IsNullOrEmpty(Environment.GetEnvironmentVariable(name)))) return;
        mallopt(MmapMax, 0);
        mallopt(TrimThreshold, int.MaxValue);
    }

    // A libtorch without MKL starts with one thread.
    private static void UseAllProcessors(nint loaded)
    {
        if (!string.IsNullOrEmpty(Environment.GetEnvironmentVariable("OMP_NUM_THREADS"))) return;
        ((delegate* unmanaged<int, int>)NativeLibrary.GetExport(loaded, nameof(Shim.hy_set_threads)))(Environment.ProcessorCount);
    }

    private static void SetUnlessSet(string name, string value)
    {
        fixed (byte* key = Encoding.ASCII.GetBytes(name + '\0'))
        fixed (byte* text = Encoding.ASCII.GetBytes(value + '\0'))
            setenv(key, text, 0);
    }

    private const int TrimThreshold = -1;
    private const int MmapMax = -4;

    [DllImport("libc")]
    private static extern int mallopt(int parameter, int value);

    // .NET's own SetEnvironmentVariable does not reach the native environment.
    [DllImport("libc")]
    private static extern int setenv(byte* name, byte* value, int overwrite);
}
