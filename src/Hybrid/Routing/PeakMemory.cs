using System.Runtime.InteropServices;

namespace Hybrid.Routing;

/// <summary>The largest resident memory of the process while some work runs. Known on Linux alone.</summary>
internal static class PeakMemory
{
    // Linux forgets the peak of a process when "5" is written here.
    private const string ResetPeakFile = "/proc/self/clear_refs";

    /// <summary>Starts anew: gives back what is free, which would hide as much of what is taken next, and forgets the peak so far.</summary>
    /// <returns>False where the system does not forget: its peak would be that of the process so far.</returns>
    public static bool Forget()
    {
        if (!OperatingSystem.IsLinux())
        {
            return false;
        }

        try
        {
            GiveBackFreeMemory();
            File.WriteAllText(ResetPeakFile, "5");
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>The peak since <see cref="Forget"/>, or since the process started, in MiB; null where the system does not tell.</summary>
    public static double? Mib() => LinuxMemory.OfProcess(LinuxMemory.PeakKey) / 1024.0;

    /// <summary>Lets the C library return what it holds and nothing uses.</summary>
    internal static void GiveBackFreeMemory()
    {
        try
        {
            _ = malloc_trim(0);
        }
        catch (Exception error) when (error is DllNotFoundException or EntryPointNotFoundException)
        {
            // Another C library than glibc: it keeps what it keeps.
        }
    }

    [DllImport("libc")]
    private static extern int malloc_trim(nint pad);
}
