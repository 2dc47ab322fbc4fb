using static TorchSharp.torch;

namespace Hybrid.Tests.Infrastructure;

/// <summary>A number of threads for libtorch and the kernels, until disposed.</summary>
internal sealed class ThreadCount : IDisposable
{
    private readonly int before = get_num_threads();

    public ThreadCount(int threads) => set_num_threads(threads);

    public void Dispose() => set_num_threads(before);
}
