using System.Runtime.InteropServices;

namespace Hybrid.Kernels.Cpu;

/// <summary>Aligned memory for one task of a kernel, handed out piece by piece.</summary>
internal sealed unsafe class Scratch(long count) : IDisposable
{
    private const int Alignment = 64;
    private readonly float* memory = (float*)NativeMemory.AlignedAlloc((nuint)count * sizeof(float), Alignment);
    private long used;

    /// <summary>The next floats. They hold anything.</summary>
    public float* Take(long floats)
    {
        var taken = memory + used;
        used += floats;
        return used <= count ? taken : throw new InvalidOperationException($"Scratch of {count} floats is too small for {used}.");
    }

    public void Dispose() => NativeMemory.AlignedFree(memory);
}
