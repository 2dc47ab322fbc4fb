using static TorchSharp.torch;

namespace Hybrid.Tests.Infrastructure;

/// <summary>A number of threads for libtorch and the kernels, until disposed.</summary>
internal sealed class ThreadCount : IDisposable
{
    private readonly int before = get_num_threads();

    public ThreadCount(int threads) => set_num_threads(threads);

    /// <summary>Asserts that what some work computes is the same, bit for bit, on one thread, two and three.</summary>
    public static void ChangesNothing(Func<IReadOnlyList<Tensor>> work)
    {
        var alone = On(1);
        foreach (var threads in new[] { 2, 3 })
        {
            foreach (var (expected, actual) in alone.Zip(On(threads)))
            {
                TensorAssert.Identical(expected, actual, $"one thread and {threads}");
            }
        }

        IReadOnlyList<Tensor> On(int threads)
        {
            using var count = new ThreadCount(threads);
            return work();
        }
    }

    public void Dispose() => set_num_threads(before);
}
