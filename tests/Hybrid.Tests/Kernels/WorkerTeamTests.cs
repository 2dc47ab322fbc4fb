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

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void CallersAtTheSameTimeEachGetAllTheirParts(int threads)
    {
        using var count = new ThreadCount(threads);
        Parallel.For(0, 8, caller =>
        {
            var counts = stackalloc int[50];
            for (var repeat = 0; repeat < 200; repeat++)
            {
                new Span<int>(counts, 50).Clear();
                WorkerTeam.Run(new Count(counts), 50);
                Assert.Equal(-1, new Span<int>(counts, 50).IndexOfAnyExcept(1));
            }
        });
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void WhatAPartThrowsReachesTheCallerAndTheTeamGoesOn(int threads)
    {
        using var count = new ThreadCount(threads);
        for (var part = 0; part < 20; part++)
        {
            var thrown = Assert.Throws<InvalidOperationException>(() => WorkerTeam.Run(new Failure(part), 20));
            Assert.Equal($"part {part}", thrown.Message);
        }

        EveryPartRunsOnce(threads);
    }

    [Fact]
    public void APartMayHaveWorkForATeam()
    {
        using var count = new ThreadCount(2);
        var counts = stackalloc int[30];
        new Span<int>(counts, 30).Clear();
        WorkerTeam.Run(new Nested(counts), 10);
        Assert.Equal(-1, new Span<int>(counts, 30).IndexOfAnyExcept(10));
    }

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

    private readonly struct Nested(int* counts) : IPartedWork
    {
        private readonly int* counts = counts;

        public void Run(int part) => WorkerTeam.Run(new Count(counts), 30);
    }

    private readonly struct Failure(int failing) : IPartedWork
    {
        private readonly int failing = failing;

        public void Run(int part)
        {
            if (part == failing)
            {
                throw new InvalidOperationException($"part {part}");
            }
        }
    }
}
