using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>CUDA kernels beside their reference of plain tensor operations.</summary>
/// <typeparam name="TKernel">What launches them.</typeparam>
/// <param name="Name">Their name in the log.</param>
/// <param name="On">The kernels on a device.</param>
/// <param name="SelfTest">Compares them with the reference on their device; null where they agree, else how they differ.</param>
internal sealed record CudaKernel<TKernel>(string Name, Func<CudaRuntime, TKernel> On, Func<TKernel, Device, string?> SelfTest)
    where TKernel : class
{
    /// <summary>
    /// The kernels of the device that the tensors of a call are on. Null where they cannot run, and then the dispatcher logs why not, but for a
    /// first tensor that is not on CUDA: such a call is none for them.
    /// </summary>
    /// <param name="tensors">All of them under their names; null ones are none, but not the first.</param>
    public TKernel? For(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        if (tensors[0].Tensor!.device_type != DeviceType.CUDA)
        {
            return null;
        }

        if (CudaRuntime.TryGet(out var runtime, out var reason, tensors))
        {
            var kernel = On(runtime);
            if (KernelDispatcher.Agrees($"{Name} {runtime.Device}", () => SelfTest(kernel, runtime.TorchDevice), out reason))
            {
                return kernel;
            }
        }

        KernelDispatcher.Refused(Name, reason);
        return null;
    }
}
