using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>Waits for what a device was given to do, so that a clock on the host measures it.</summary>
internal static class DeviceClock
{
    /// <summary>Returns when the device of the tensor has finished; at once on the CPU, which is never behind.</summary>
    public static void WaitFor(Tensor tensor)
    {
        if (tensor.device_type == DeviceType.CUDA)
        {
            cuda.synchronize(tensor.device);
        }
    }
}
