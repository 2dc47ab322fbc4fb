using Hybrid.Routing;
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
        PeakMemory.GiveBackFreeMemory();
        return Read(LinuxMemory.ResidentKey);
    }

    /// <summary>Bytes above those in use before, at the peak of some work.</summary>
    public static long PeakOf(Action work)
    {
        var before = Held();
        Assert.True(PeakMemory.Forget());
        work();
        return Read(LinuxMemory.PeakKey) - before;
    }

    private static long Read(string key) => LinuxMemory.OfProcess(key)!.Value * 1024;
}
