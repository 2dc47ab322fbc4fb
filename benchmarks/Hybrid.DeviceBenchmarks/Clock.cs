using System.Diagnostics;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.DeviceBenchmarks;

/// <summary>Times of work on a device, which runs behind the host and has to be waited for.</summary>
internal static class Clock
{
    private const int WarmUps = 3;

    /// <summary>The median time of a call, after calls that do not count: the runtime optimises its code, and a device raises its clocks.</summary>
    /// <param name="settings">Device and number of calls.</param>
    /// <param name="call">The work; what it makes is freed.</param>
    /// <returns>Milliseconds.</returns>
    public static double Median(Settings settings, Action call)
    {
        var begun = Stopwatch.GetTimestamp();
        for (var i = 0; i < WarmUps || Stopwatch.GetElapsedTime(begun) < settings.WarmUp; i++)
        {
            Milliseconds(settings.Device, call);
        }

        var times = Enumerable.Range(0, settings.Repeats).Select(_ => Milliseconds(settings.Device, call)).Order().ToArray();
        return times[times.Length / 2];
    }

    private static double Milliseconds(Device device, Action call)
    {
        using var scope = NewDisposeScope();
        Wait(device);
        var start = Stopwatch.GetTimestamp();
        call();
        Wait(device);
        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    private static void Wait(Device device)
    {
        if (device.type == DeviceType.CUDA)
        {
            cuda.synchronize(device);
        }
    }
}
