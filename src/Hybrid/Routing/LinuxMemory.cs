using System.Globalization;

namespace Hybrid.Routing;

/// <summary>What Linux says of memory: lines such as <c>VmHWM:     1234 kB</c>. Elsewhere nothing is known.</summary>
internal static class LinuxMemory
{
    /// <summary>The memory of this process that stands in RAM.</summary>
    public const string ResidentKey = "VmRSS:";

    /// <summary>The most of it so far.</summary>
    public const string PeakKey = "VmHWM:";

    /// <summary>What programs could still take without swapping.</summary>
    public const string AvailableKey = "MemAvailable:";

    /// <summary>An entry of the account of this process, in units of 1024 bytes; null where there is none.</summary>
    /// <param name="key">The entry with its colon.</param>
    public static long? OfProcess(string key) => Kilobytes("/proc/self/status", key);

    /// <summary>An entry of the account of the whole machine, in units of 1024 bytes; null where there is none.</summary>
    /// <param name="key">The entry with its colon.</param>
    public static long? OfMachine(string key) => Kilobytes("/proc/meminfo", key);

    private static long? Kilobytes(string file, string key)
    {
        var line = File.Exists(file) ? File.ReadLines(file).FirstOrDefault(line => line.StartsWith(key, StringComparison.Ordinal)) : null;
        return line is null ? null : long.Parse(line.AsSpan(key.Length).Trim().TrimEnd(" kB"), CultureInfo.InvariantCulture);
    }
}
