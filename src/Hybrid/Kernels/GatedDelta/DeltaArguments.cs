using System.Runtime.InteropServices;
using Hybrid.Kernels.Cuda;

namespace Hybrid.Kernels;

/// <summary>The struct DeltaArguments of gated_delta.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DeltaArguments
{
    public CudaStrided Query;
    public CudaStrided Key;
    public CudaStrided Value;
    public CudaStrided Initial;
    public CudaStrided Last;
    public CudaRows Strength;
    public CudaRows LogDecay;
    public nint Mask;
    public nint Restart;
    public nint Output;
    public nint Reading;
    public nint States;
    public long Batch;
    public long Time;
    public long Heads;
    public long Segment;
    public long HeadsOfGroup;
    public long Keys;
    public long Values;
    public float Scale;
    public int Normalise;
}

/// <summary>The struct DeltaGradientArguments of gated_delta.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DeltaGradientArguments
{
    public DeltaArguments Rule;
    public CudaStrided Last;
    public CudaStrided First;
    public nint Output;
    public nint Query;
    public nint Key;
    public nint Value;
    public nint Strength;
    public nint LogDecay;
    public nint Flow;
    public long Start;
    public long End;
}
