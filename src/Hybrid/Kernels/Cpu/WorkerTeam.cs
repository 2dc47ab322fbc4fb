using System.Runtime.ExceptionServices;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>Work that is cut into parts, each of which writes what no other part reads or writes.</summary>
internal interface IPartedWork
{
    /// <summary>Does one part, on any thread. What it throws reaches the caller of the team.</summary>
    /// <param name="part">0..parts-1.</param>
    void Run(int part);
}

/// <summary>
/// The threads of all kernels. They stay alive between calls, for kernels of a few microseconds: a token of a small model starts a hundred of
/// them. A call allocates nothing. Threads look for work for some microseconds after a call, then sleep. Which thread does which part is left open,
/// so parts must not depend on it.
/// </summary>
internal static unsafe class WorkerTeam
{
    /// <summary>Spins between calls: about the time of the tensor operations that stand between two kernels of a layer.</summary>
    private const int SpinsBeforeSleep = 400;

    private static readonly Lock Busy = new();
    private static readonly SemaphoreSlim Wake = new(0);
    private static int workers;
    private static int invited;
    private static int sleeping;

    // The job. It is written before `open` and stays as it is until `done` has counted every part of it, so that whoever takes a part,
    // however late, takes one of the job that it reads.
    private static delegate*<void*, int, void> job;
    private static void* argument;
    private static int open;
    private static int done;
    private static ExceptionDispatchInfo? failure;

    /// <summary>Does all parts, on as many threads as libtorch may use, and returns after the last.</summary>
    /// <typeparam name="TWork">The work.</typeparam>
    /// <param name="work">What to do; on the caller's stack.</param>
    /// <param name="parts">Number of parts.</param>
    /// <param name="mostThreads">Threads at most, the caller's included, where the work is not worth more.</param>
    public static void Run<TWork>(TWork work, int parts, int mostThreads = int.MaxValue)
        where TWork : unmanaged, IPartedWork
    {
        var threads = parts > 1 && mostThreads > 1 ? Math.Min(Math.Min(get_num_threads(), mostThreads), parts) : 1;

        // A second caller at the same time has the processor's other cores to itself no more than the first: it works alone, from the last
        // part down as the team does, until the team is free for the rest. So does a part that has work for a team itself.
        for (; parts > 0; parts--)
        {
            if (threads > 1 && parts > 1 && !Busy.IsHeldByCurrentThread && Busy.TryEnter())
            {
                try
                {
                    Share(&Invoke<TWork>, &work, parts, threads - 1);
                }
                finally
                {
                    Busy.Exit();
                }

                return;
            }

            work.Run(parts - 1);
        }
    }

    private static void Invoke<TWork>(void* work, int part)
        where TWork : unmanaged, IPartedWork => ((TWork*)work)->Run(part);

    private static void Share(delegate*<void*, int, void> work, void* on, int parts, int helpers)
    {
        job = work;
        argument = on;
        Volatile.Write(ref done, 0);
        Volatile.Write(ref invited, helpers);
        Volatile.Write(ref open, parts);
        Call(helpers);
        TakeParts();

        var wait = default(SpinWait);
        while (Volatile.Read(ref done) < parts)
        {
            wait.SpinOnce(sleep1Threshold: -1);
        }

        Interlocked.Exchange(ref failure, null)?.Throw();
    }

    /// <summary>Starts the threads that are missing and wakes those that sleep.</summary>
    private static void Call(int helpers)
    {
        Interlocked.MemoryBarrier();
        var asleep = Math.Min(Volatile.Read(ref sleeping), helpers);
        if (asleep > 0)
        {
            Wake.Release(asleep);
        }

        for (; workers < helpers; workers++)
        {
            var index = workers;
            new Thread(() => Work(index)) { IsBackground = true, Name = "Hybrid kernels" }.Start();
        }
    }

    private static void TakeParts()
    {
        while (Volatile.Read(ref open) > 0)
        {
            var part = Interlocked.Decrement(ref open);
            if (part >= 0)
            {
                try
                {
                    job(argument, part);
                }
                catch (Exception thrown)
                {
                    failure = ExceptionDispatchInfo.Capture(thrown);
                }

                Interlocked.Increment(ref done);
            }
        }
    }

    private static void Work(int index)
    {
        while (true)
        {
            for (var spin = 0; spin < SpinsBeforeSleep; spin++)
            {
                if (index < Volatile.Read(ref invited) && Volatile.Read(ref open) > 0)
                {
                    TakeParts();
                    spin = 0;
                }

                Thread.SpinWait(8);
            }

            // Announced first, looked once more second: a job that came in between is seen here, or its caller sees the sleeper.
            Interlocked.Increment(ref sleeping);
            if (index >= Volatile.Read(ref invited) || Volatile.Read(ref open) <= 0)
            {
                Wake.Wait();
            }

            Interlocked.Decrement(ref sleeping);
        }
    }
}
