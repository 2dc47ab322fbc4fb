using System.Runtime.Intrinsics;
using static TorchSharp.torch;

namespace Hybrid.Kernels.Cpu;

/// <summary>Work that is cut into tasks which do not depend on each other.</summary>
internal interface ILaneWork
{
    /// <summary>Runs one task with registers of one width.</summary>
    void Run<TLane>(int task)
        where TLane : struct, ILane<TLane>;
}

/// <summary>
/// Runs tasks with the widest registers there are, on as many threads as libtorch is set to use. The cut into tasks does not depend on the
/// number of threads, so with sums of a fixed order within and over tasks, results are the same bit for bit on any number of them.
/// </summary>
internal static class LaneTasks
{
    /// <summary>Below this many elements, waking another thread costs more than it saves.</summary>
    private const long WorthAThread = 1 << 15;

    /// <summary>Runs all tasks.</summary>
    /// <param name="work">What a task does.</param>
    /// <param name="tasks">How many.</param>
    /// <param name="elements">Elements that all of them together compute.</param>
    public static void Run<TWork>(TWork work, int tasks, long elements)
        where TWork : struct, ILaneWork
    {
        if (Vector512.IsHardwareAccelerated)
        {
            Run<TWork, Lane512>(work, tasks, elements);
        }
        else if (Vector256.IsHardwareAccelerated)
        {
            Run<TWork, Lane256>(work, tasks, elements);
        }
        else
        {
            Run<TWork, Lane128>(work, tasks, elements);
        }
    }

    private static void Run<TWork, TLane>(TWork work, int tasks, long elements)
        where TWork : struct, ILaneWork
        where TLane : struct, ILane<TLane>
    {
        var threads = elements < WorthAThread ? 1 : Math.Min(get_num_threads(), tasks);
        if (threads == 1)
        {
            for (var task = 0; task < tasks; task++)
            {
                work.Run<TLane>(task);
            }

            return;
        }

        Parallel.For(0, tasks, new ParallelOptions { MaxDegreeOfParallelism = threads }, work.Run<TLane>);
    }
}
