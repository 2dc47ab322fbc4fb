using System.Collections.Concurrent;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>CUDA kernels beside their reference of plain tensor operations.</summary>
/// <typeparam name="TKernel">What launches them.</typeparam>
/// <param name="name">Their name in the log.</param>
/// <param name="on">The kernels on a device.</param>
/// <param name="selfTest">Compares them with the reference on their device; null where they agree, else how they differ.</param>
internal sealed class CudaKernel<TKernel>(string name, Func<CudaRuntime, TKernel> on, Func<TKernel, Device, string?> selfTest)
    where TKernel : class
{
    // Decoding asks for every layer and token: names and kernels are made once.
    private readonly ConcurrentDictionary<CudaRuntime, (TKernel Kernel, string Name)> known = new();

    /// <summary>Their name in the log.</summary>
    public string Name => name;

    /// <summary>
    /// The kernels of the device that the tensors of a call are on. Null where they cannot run, and then the dispatcher logs why not, but for a
    /// first tensor that is not on CUDA: such a call is none for them.
    /// </summary>
    /// <param name="tensors">All of them under their names; null ones are none, but not the first.</param>
    public TKernel? For(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors) => For("", tensors);

    /// <summary><see cref="For(ReadOnlySpan{ValueTuple{string, Tensor}})"/> for kernels that do not take every size.</summary>
    /// <param name="unfit">Why they do not take those of the call; empty where they do.</param>
    /// <param name="tensors">All of them under their names; null ones are none, but not the first.</param>
    public TKernel? For(string unfit, params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
    {
        if (!CudaRuntime.Holds(tensors[0].Tensor!))
        {
            return null;
        }

        if (CudaRuntime.TryGet(out var runtime, out var reason, tensors) && (reason = unfit).Length == 0)
        {
            var (kernel, fullName) = known.GetOrAdd(runtime, static (runtime, of) => (of.on(runtime), $"{of.name} {runtime.Name}"), (on, name));
            if (KernelDispatcher.Agrees(fullName, (selfTest, kernel, runtime.TorchDevice), static x => x.selfTest(x.kernel, x.TorchDevice), out reason))
            {
                return kernel;
            }
        }

        KernelDispatcher.Refused(name, reason);
        return null;
    }
}
