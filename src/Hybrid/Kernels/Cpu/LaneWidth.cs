using System.Runtime.Intrinsics;

namespace Hybrid.Kernels.Cpu;

/// <summary>Code for registers of one width.</summary>
internal interface ILaneCode
{
    /// <summary>Runs it.</summary>
    void Run<TLane>()
        where TLane : struct, ILane<TLane>;
}

/// <summary>Chooses the width of registers.</summary>
internal static class LaneWidth
{
    /// <summary>Runs code with the widest registers that there are and that a size has room for; with 128 bits where it has none.</summary>
    /// <param name="code">The code.</param>
    /// <param name="room">Elements that registers go along.</param>
    public static void Run<TCode>(TCode code, int room = int.MaxValue)
        where TCode : struct, ILaneCode
    {
        if (Vector512.IsHardwareAccelerated && room >= Lane512.Count)
        {
            code.Run<Lane512>();
        }
        else if (Vector256.IsHardwareAccelerated && room >= Lane256.Count)
        {
            code.Run<Lane256>();
        }
        else
        {
            code.Run<Lane128>();
        }
    }

    /// <summary>The room that leaves no lane over: the largest power of two that divides a size.</summary>
    public static int Filled(int size) => size & -size;
}
