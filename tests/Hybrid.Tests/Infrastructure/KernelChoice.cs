using Hybrid.Kernels;

namespace Hybrid.Tests.Infrastructure;

/// <summary>Reference kernels, or the fastest that can run, until disposed.</summary>
internal sealed class KernelChoice : IDisposable
{
    private readonly bool before = KernelDispatcher.ReferenceOnly;

    public KernelChoice(bool referenceOnly) => KernelDispatcher.ReferenceOnly = referenceOnly;

    public void Dispose() => KernelDispatcher.ReferenceOnly = before;
}
