using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The CUDA kernels of the gated delta rule, on a CPU in the place of a device.</summary>
public class DeltaOnCudaTests
{
    // float32 against float64 over some hundred steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<long, long, long, long, long, string> Cases => DeltaKernelCase.All;

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReference(long batch, long time, long heads, long keyWidth, long valueWidth, string with) =>
        DeltaKernelCase.Check(Kernel(), CPU, Tolerance, batch, time, heads, keyWidth, valueWidth, with);

    /// <summary>Whole and ragged registers of the widest keys, several tiles, enough heads that the tiles are wide forwards too, and long rows.</summary>
    [Theory]
    [InlineData(1, 5, 1, 256, 64, "g normalise initial")]
    [InlineData(1, 9, 1, 250, 70, "g initial")]
    [InlineData(1, 6, 4, 128, 129, "g normalise mask initial")]
    [InlineData(3, 12, 2, 96, 64, "g restart")]
    [InlineData(1, 1000, 1, 7, 3, "g normalise initial")]
    public void AnySizeEqualsTheReference(long batch, long time, long heads, long keyWidth, long valueWidth, string with) =>
        DeltaKernelCase.Check(Kernel(), CPU, Tolerance, batch, time, heads, keyWidth, valueWidth, with);

    private static DeltaOnCuda Kernel() => new(HostCuda.Runtime());
}
