using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>How much memory a device has left.</summary>
public static class FreeMemory
{
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

        if (LinuxMemory.OfMachine(LinuxMemory.AvailableKey) is { } kilobytes)
        {
            return kilobytes / 1024;
        }

        var info = GC.GetGCMemoryInfo();
        return Math.Max(0, info.TotalAvailableMemoryBytes - info.MemoryLoadBytes) >> 20;
    }
}
