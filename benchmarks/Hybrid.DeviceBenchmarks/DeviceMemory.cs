using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using Hybrid.Routing;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.DeviceBenchmarks;

/// <summary>
/// The most memory that this process has held. On a GPU libtorch keeps what it once took, so that what is taken now is the peak: the
/// driver's figure for the whole device, less what others held when the process started. On a CPU it is the resident memory's high-water mark.
/// </summary>
internal sealed class DeviceMemory
{
    private readonly Device device;
    private readonly double? before;

    /// <param name="device">The device, on which nothing has been made yet.</param>
    public DeviceMemory(Device device)
    {
        this.device = device;
        before = device.type == DeviceType.CUDA ? Used() : 0;
    }

    /// <summary>The peak so far in MiB; null where the system does not tell.</summary>
    public double? PeakMib => device.type == DeviceType.CUDA ? Used() - before : PeakMemory.Mib();

    private double? Used()
    {
        var start = new ProcessStartInfo("nvidia-smi") { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var argument in new[] { "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", $"{Math.Max(0, device.index)}" })
        {
            start.ArgumentList.Add(argument);
        }

        try
        {
            using var process = Process.Start(start)!;
            var text = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return double.TryParse(text.Trim(), CultureInfo.InvariantCulture, out var mib) ? mib : null;
        }
        catch (Win32Exception)
        {
            return null;
        }
    }
}
