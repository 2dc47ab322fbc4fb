using System.Runtime.InteropServices;
using Hybrid.Kernels.Cuda;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The struct Matrix of selective_scan.cu: B or C as [B, T, N], [B, T, G, N] or constant [E, N].</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct ScanMatrixArgument
{
    private readonly nint first;
    private readonly long row;
    private readonly long step;
    private readonly long group;
    private readonly long channels;

    public ScanMatrixArgument(Tensor matrix, long allChannels)
    {
        var strides = matrix.stride();
        first = CudaRows.Address(matrix);
        (row, step, group) = strides.Length switch
        {
            2 => (0, 0, strides[0]),
            3 => (strides[0], strides[1], 0),
            _ => (strides[0], strides[1], strides[2]),
        };
        channels = strides.Length == 2 ? 1 : allChannels / ScanSizes.MatrixGroups(matrix);
    }
}

/// <summary>The struct ScanArguments of selective_scan.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ScanArguments
{
    public CudaRows U;
    public CudaRows Delta;
    public CudaRows Z;
    public ScanMatrixArgument InMatrix;
    public ScanMatrixArgument OutMatrix;
    public nint Decay;
    public nint Skip;
    public nint Bias;
    public nint Initial;
    public nint Mask;
    public nint Restart;
    public nint Y;
    public nint Last;
    public nint Local;
    public nint Totals;
    public nint Kept;
    public long Batch;
    public long Time;
    public long Channels;
    public long ChunkSteps;
    public long Chunks;
    public int Softplus;
    public float Low;
    public float High;
    public int Unused;
}

/// <summary>The struct ScanGradientArguments of selective_scan.cu, which says what each field is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ScanGradientArguments
{
    public ScanArguments Scan;
    public CudaRows Y;
    public nint Last;
    public nint Local;
    public nint Totals;
    public nint U;
    public nint Delta;
    public nint Z;
    public nint Decay;
    public nint InMatrix;
    public nint OutMatrix;
    public nint Skip;
    public nint Bias;
    public nint Initial;
    public long Unit;
    public int InConstant;
    public int OutConstant;
}
