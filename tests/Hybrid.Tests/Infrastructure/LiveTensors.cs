using static TorchSharp.torch;

namespace Hybrid.Tests.Infrastructure;

/// <summary>Counts tensors that are alive, to find those that are left behind.</summary>
internal static class LiveTensors
{
    /// <summary>
    /// The count before what is watched: nothing that earlier tests left to the finalizers goes between this and a later count.
    /// </summary>
    public static long Before()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return Tensor.TotalCount;
    }
}
