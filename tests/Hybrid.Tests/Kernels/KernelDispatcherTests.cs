using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Microsoft.Extensions.Logging.Abstractions;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class KernelDispatcherTests
{
    [Fact]
    public void ARefusedKernelIsLoggedOnceWithItsReason()
    {
        var log = new ListLogger();
        KernelDispatcher.Forget();
        KernelDispatcher.Logger = log;
        try
        {
            using var scope = NewDisposeScope();
            var (u, a) = (zeros(1, 3, 4, dtype: ScalarType.Float64), zeros(4, 2, dtype: ScalarType.Float64));
            for (var call = 0; call < 2; call++)
            {
                SelectiveScan.Apply(u, u, a, a, a);
            }
        }
        finally
        {
            KernelDispatcher.Logger = NullLogger.Instance;
        }

        Assert.Equal(["SelectiveScan.Cpu: the reference kernel runs, because u is Float64"], log.Messages);
    }

    /// <summary>One tensor that the kernel cannot read is enough, whichever it is.</summary>
    [Theory]
    [InlineData("z")]
    [InlineData("D")]
    [InlineData("mask")]
    public void TheReasonNamesTheTensor(string name)
    {
        using var scope = NewDisposeScope();
        var (u, a) = (zeros(1, 3, 4), zeros(4, 2));
        var odd = name == "mask" ? zeros(1, 3, dtype: ScalarType.Float64) : zeros(4, dtype: ScalarType.Float64);
        Assert.Equal(ScanType.Fused, SelectiveScan.Resolve(ScanType.Auto, ("u", u), ("A", a)));
        Assert.Equal(ScanType.Associative, SelectiveScan.Resolve(ScanType.Auto, ("u", u), ("A", a), (name, odd)));
        Assert.False(SelectiveScan.CanRunOnCpu(out var reason, ("u", u), ("A", a), (name, odd)));
        Assert.Equal($"{name} is Float64", reason);
    }

    [Fact]
    public void AKernelThatDiffersFromItsReferenceIsNotUsed()
    {
        KernelDispatcher.Forget();
        var runs = 0;
        for (var call = 0; call < 2; call++)
        {
            Assert.False(KernelDispatcher.Agrees("Wrong", () => { runs++; return "off by 2"; }, out var reason));
            Assert.Equal("its self-test failed: off by 2", reason);
        }

        Assert.Equal(1, runs);
    }

    [Fact]
    public void AnErrorInASelfTestIsAReason()
    {
        KernelDispatcher.Forget();
        Assert.False(KernelDispatcher.Agrees("Broken", () => throw new InvalidOperationException("no such register"), out var reason));
        Assert.Equal("its self-test failed: no such register", reason);
    }

    [Fact]
    public void ASelfTestDoesNotSeeTheModesOfItsCaller()
    {
        KernelDispatcher.Forget();
        using var guard = no_grad();
        Assert.True(KernelDispatcher.Agrees("Graded", () => is_grad_enabled() ? null : "no gradients", out var reason), reason);
    }

    [Fact]
    public void UncheckedKernelsAreNotTested()
    {
        KernelDispatcher.Forget();
        KernelDispatcher.Unchecked = true;
        try
        {
            Assert.True(KernelDispatcher.Agrees("Untested", () => "never asked", out _));
        }
        finally
        {
            KernelDispatcher.Unchecked = false;
        }
    }

    [Theory]
    [InlineData(null, false, false)]
    [InlineData("auto", false, false)]
    [InlineData("unchecked", false, true)]
    [InlineData("reference", true, false)]
    public void TheVariableSaysWhichKernelsRun(string? value, bool referenceOnly, bool isUnchecked) =>
        Assert.Equal((referenceOnly, isUnchecked), KernelDispatcher.Parse(value));

    [Fact]
    public void AnUnknownValueOfTheVariableIsNamed()
    {
        var error = Assert.Throws<InvalidOperationException>(() => KernelDispatcher.Parse("fast"));
        Assert.Equal("HYBRID_KERNELS must be auto, unchecked or reference; got 'fast'.", error.Message);
    }

    [Fact]
    public void ASelfTestComparesEveryResult()
    {
        using var scope = NewDisposeScope();
        var x = SelfTest.Values(3, 2, 4, 5);
        Assert.Null(SelfTest.Compare([x, x], [x, x + 1e-7], 1e-6));
        Assert.StartsWith("result 1 differs by", SelfTest.Compare([x, x], [x, x * 1.001], 1e-6), StringComparison.Ordinal);
        Assert.StartsWith("result 0 differs by NaN", SelfTest.Compare([x], [x * float.NaN], 1e-6), StringComparison.Ordinal);
    }
}
