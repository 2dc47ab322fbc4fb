using System.Runtime.InteropServices;
using Xunit;

namespace Hybrid.Tests.Infrastructure;

/// <summary>The resident memory of the process, where tensors live that no managed counter sees. Linux with glibc only.</summary>
internal static class ResidentMemory
{
    /// <summary>Skips the test on other systems.</summary>
    public static void SkipUnlessMeasured() =>
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Resident memory is read from /proc.");

    /// <summary>Bytes in use, what is freed having been given back to the system.</summary>
    public static long Held()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        _ = malloc_trim(0);
        return Read("VmRSS:");
    }

    /// <summary>Bytes above those in use before, at the peak of some work.</summary>
    public static long PeakOf(Action work)
    {
        var before = Held();
        File.WriteAllText("/proc/self/clear_refs", "5");
        work();
        return Read("VmHWM:") - before;
    }

    private static long Read(string key)
    {
        var line = File.ReadLines("/proc/self/status").First(text => text.StartsWith(key, StringComparison.Ordinal));
        return 1024 * long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1]);
    }

    [DllImport("libc")]
    private static extern int malloc_trim(nint pad);
}
