using Hybrid.Kernels.Cpu;
using Hybrid.Tests.Infrastructure;
using Xunit;

namespace Hybrid.Tests.Kernels;

public unsafe class WorkerTeamTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    public void EveryPartRunsOnce(int threads)
    {
        using var count = new ThreadCount(threads);
        var counts = stackalloc int[100];
        for (var repeat = 1; repeat <= 500; repeat++)
        {
            // Now and then long enough apart for the threads to fall asleep.
            if (repeat % 100 == 0)
            {
                Thread.Sleep(20);
            }

            var parts = 1 + (repeat % 100);
            new Span<int>(counts, 100).Clear();
            WorkerTeam.Run(new Count(counts), parts);
            for (var part = 0; part < 100; part++)
            {
                Assert.Equal(part < parts ? 1 : 0, counts[part]);
            }
        }
    }

    [Fact]
    public void NoPartsAreNoWork() => WorkerTeam.Run(new Count(null), 0);

    [Fact]
    public void ACallAllocatesNothing()
    {
        using var count = new ThreadCount(2);
        var counts = stackalloc int[8];
        WorkerTeam.Run(new Count(counts), 8);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var repeat = 0; repeat < 100; repeat++)
        {
            WorkerTeam.Run(new Count(counts), 8);
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    private readonly struct Count(int* counts) : IPartedWork
    {
        private readonly int* counts = counts;

        public void Run(int part) => Interlocked.Increment(ref counts[part]);
    }
}
