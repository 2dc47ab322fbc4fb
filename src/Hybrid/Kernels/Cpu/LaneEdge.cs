using System.Runtime.CompilerServices;

namespace Hybrid.Kernels.Cpu;

/// <summary>
/// How a register meets the memory of a row: with all lanes, or at the end of the row with those that are left. Loops are generic over it, so
/// that the one for whole registers holds no calls, across which no register stays.
/// </summary>
internal unsafe interface ILaneEdge
{
    /// <summary>The lanes there are, the others zero.</summary>
    TLane Load<TLane>(float* source)
        where TLane : struct, ILane<TLane>;

    /// <summary>Writes the lanes there are.</summary>
    void Store<TLane>(TLane value, float* target)
        where TLane : struct, ILane<TLane>;
}

/// <summary>All lanes.</summary>
internal readonly unsafe struct WholeLanes : ILaneEdge
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TLane Load<TLane>(float* source)
        where TLane : struct, ILane<TLane> => TLane.Load(source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store<TLane>(TLane value, float* target)
        where TLane : struct, ILane<TLane> => TLane.Store(value, target);
}

/// <summary>The first <paramref name="width"/> lanes.</summary>
internal readonly unsafe struct FirstLanes(int width) : ILaneEdge
{
    public TLane Load<TLane>(float* source)
        where TLane : struct, ILane<TLane> => LaneMemory.Load<TLane>(source, width);

    public void Store<TLane>(TLane value, float* target)
        where TLane : struct, ILane<TLane> => LaneMemory.Store(value, target, width);
}
