using Hybrid.Kernels.Cpu;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class LaneTasksTests
{
    [Fact]
    public void NamesTheTensorThatKeepsTheKernelFromRunning()
    {
        using var scope = NewDisposeScope();
        var (x, wide, elsewhere) = (zeros(2), zeros(2, dtype: ScalarType.Float64), zeros(2, device: new Device(DeviceType.META)));
        Assert.Equal("", Reason(("x", x), ("half", zeros(2, dtype: ScalarType.BFloat16)), ("mask", zeros(2, dtype: ScalarType.Bool)), ("none", null)));
        Assert.Equal("weight is Float64", Reason(("x", x), ("weight", wide), ("state", elsewhere)));
        Assert.Equal("state is on META", Reason(("x", x), ("state", elsewhere)));
        Assert.Equal("mask is on META", Reason(("x", x), ("mask", zeros(2, dtype: ScalarType.Bool, device: new Device(DeviceType.META)))));
        Assert.Equal("z is Int32", Reason(("z", zeros(2, dtype: ScalarType.Int32))));

        static string Reason(params ReadOnlySpan<(string Name, Tensor? Tensor)> tensors)
        {
            var runs = LaneTasks.CanRun(out var reason, tensors);
            Assert.Equal(runs, reason.Length == 0);
            return reason;
        }
    }

    [Fact]
    public void KernelsOfFloat32AloneTakeNoOtherNumbers()
    {
        using var scope = NewDisposeScope();
        var (x, half, ids) = (zeros(2), zeros(2, dtype: ScalarType.BFloat16), zeros(2, dtype: ScalarType.Int64));
        Assert.True(LaneTasks.CanRunFloat32(out _, ("x", x), ("ids", ids), ("none", null)));
        Assert.False(LaneTasks.CanRunFloat32(out var reason, ("x", x), ("weight", half)));
        Assert.Equal("weight is BFloat16", reason);
    }

    [Fact]
    public void TheReferenceMayBeForced()
    {
        using var scope = NewDisposeScope();
        using var kernels = new KernelChoice(referenceOnly: true);
        Assert.False(LaneTasks.CanRun(out var reason, ("x", zeros(2))));
        Assert.Equal("HYBRID_KERNELS=reference", reason);
    }
}
