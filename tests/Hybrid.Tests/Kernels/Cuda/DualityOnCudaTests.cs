using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The CUDA kernels of state-space duality, on a CPU in the place of a device.</summary>
public class DualityOnCudaTests
{
    // float32 against float64 over some hundred steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<long, long, long, long, long, long, string> Cases => DualityKernelCase.All;

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReference(long batch, long time, long heads, long groups, long headWidth, long n, string with) =>
        Check(StateSpaceDuality.Kernel(HostCuda.Runtime()), CPU, Tolerance, batch, time, heads, groups, headWidth, n, with);

    /// <summary>The widest states, several tiles, and long rows.</summary>
    [Theory]
    [InlineData(1, 6, 2, 1, 64, 256, "D z bias initial")]
    [InlineData(1, 7, 4, 2, 130, 128, "initial mask")]
    [InlineData(2, 5, 2, 2, 20, 200, "restart limits")]
    [InlineData(1, 1000, 2, 1, 3, 4, "D initial")]
    public void AnySizeEqualsTheReference(long batch, long time, long heads, long groups, long headWidth, long n, string with) =>
        EqualsTheReference(batch, time, heads, groups, headWidth, n, with);

    /// <summary>Compares the kernels of a device with the reference.</summary>
    internal static void Check(
        DeltaOnCuda kernel, Device device, double tolerance, long batch, long time, long heads, long groups, long headWidth, long n, string with) =>
        DualityKernelCase.Check(
            (x, steps, mask, restart) => StateSpaceDuality.Cuda(kernel, x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], steps, x[8], mask, restart),
            device, tolerance, batch, time, heads, groups, headWidth, n, with, stepwise: true);
}
