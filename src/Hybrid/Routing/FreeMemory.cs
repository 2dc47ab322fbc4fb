using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>How much memory a device has left.</summary>
public static class FreeMemory
{
    private const string LinuxFile = "/proc/meminfo";
    private const string LinuxKey = "MemAvailable:";

    /// <summary>
    /// Free memory in MiB: on Linux what the kernel says is available, on other systems what the .NET runtime saw at its last garbage
    /// collection. Null for a GPU, of which TorchSharp does not tell; <see cref="HybridAttention.MemoryProbe"/> takes one's own probe.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <returns>MiB, or null.</returns>
    public static long? OfDevice(Device device)
    {
        if (device.type != DeviceType.CPU)
        {
            return null;
        }

        if (File.Exists(LinuxFile))
        {
            var line = File.ReadLines(LinuxFile).FirstOrDefault(line => line.StartsWith(LinuxKey, StringComparison.Ordinal));
            return line is null ? null : long.Parse(line.AsSpan(LinuxKey.Length).Trim().TrimEnd(" kB"), CultureInfo.InvariantCulture) / 1024;
        }

        var info = GC.GetGCMemoryInfo();
        return Math.Max(0, info.TotalAvailableMemoryBytes - info.MemoryLoadBytes) >> 20;
    }
}
