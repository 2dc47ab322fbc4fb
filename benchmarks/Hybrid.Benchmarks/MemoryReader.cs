using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// Reads memory once, as fast as the machine does: on as many threads as libtorch may use, each through a stretch of its own in four
/// streams, which keeps more cache lines under way than one. Of 1 to 8 streams, stretches or shared parts of 64 KB or 1 MB, and software
/// prefetches or none, this was the fastest on two cores: 40 GB/s, where none was below 22.
/// </summary>
internal sealed unsafe class MemoryReader
{
    private const int Streams = 4;
    private const int LineBytes = 64;
    private readonly long streamFloats;
    private readonly int threads = get_num_threads();
    private readonly float[] sums;
    private readonly float[] pinned;
    private readonly float* memory;

    /// <param name="bytes">Bytes to read; as many as all streams share are read.</param>
    public MemoryReader(long bytes)
    {
        streamFloats = bytes / (threads * Streams * LineBytes) * (LineBytes / sizeof(float));
        sums = new float[threads];
        pinned = GC.AllocateUninitializedArray<float>((int)(streamFloats * threads * Streams) + (LineBytes / sizeof(float)), pinned: true);
        Array.Fill(pinned, 1);
        var first = (nuint)Unsafe.AsPointer(ref pinned[0]);
        memory = (float*)((first + LineBytes - 1) / LineBytes * LineBytes);
    }

    /// <summary>Reads everything.</summary>
    /// <returns>The sum, so that no reading is left out.</returns>
    public float Read()
    {
        Parallel.For(0, threads, new ParallelOptions { MaxDegreeOfParallelism = threads }, thread => sums[thread] = Sum(memory + (streamFloats * Streams * thread)));
        return sums.Sum();
    }

    private float Sum(float* first)
    {
        float* second = first + streamFloats, third = second + streamFloats, fourth = third + streamFloats;
        var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
        for (var i = 0L; i < streamFloats; i += Vector512<float>.Count)
        {
            a += Vector512.LoadAligned(first + i);
            b += Vector512.LoadAligned(second + i);
            c += Vector512.LoadAligned(third + i);
            d += Vector512.LoadAligned(fourth + i);
        }

        return Vector512.Sum(a + b + (c + d));
    }
}
