using Hybrid.Attention;
using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using Microsoft.Extensions.Logging.Abstractions;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The choice of CUDA kernels, with a CPU in the place of a device.</summary>
public class CudaKernelTests
{
    /// <summary>A call of each operation with tensors that no kernel takes, by the name of its kernels and with the reason.</summary>
    private static readonly Dictionary<string, (string Reason, Action Call)> Refused = new()
    {
        ["SelectiveScan.Cuda"] = ("u is Float64", () => SelectiveScan.Apply(Double(1, 3, 4), Double(1, 3, 4), Double(4, 2), Double(4, 2), Double(4, 2))),
        ["CausalConv1d.Cuda"] = ("x is Float64", () => CausalConv1d.Apply(Double(1, 3, 4), Double(4, 2))),
        ["RootMeanSquare.Cuda"] = ("x is Float64", () => new RmsNorm(4).to(ScalarType.Float64).call(Double(1, 3, 4))),
        ["LinearRecurrence.Cuda"] = ("x is Float64", () => LinearRecurrence.Apply(Double(1, 3, 4), Double(1, 3, 4))),
        ["GatedAverage.Cuda"] = ("valuesAndGates is Float64", () => GatedAverage.Apply(Double(1, 3, 8), Double(4))),
        ["RgLru.Cuda"] = ("x is Float64", () => RgLru.Apply(Double(1, 3, 4), Double(2, 2, 2), Double(2, 2), Double(2, 2, 2), Double(2, 2), Double(4))),
        ["Wkv.Cuda"] = ("key is Float64", () => Wkv.Apply(WkvForm.Rwkv4, Double(4), Double(4), Double(1, 3, 4), Double(1, 3, 4))),
        ["GatedDelta.Cuda"] = ("q is Float64", () => Delta(Double(1, 3, 2, 4))),
        ["AttentionStep.Cuda"] = ("x is Float64", DoubleAttention),
        ["StateSpaceDuality.Cuda"] = ("x is Float64", () => Duality(Double(1, 3, 2, 4), 5)),
    };

    public static TheoryData<string> Kernels => [.. Refused.Keys];

    /// <summary>The kernels on CPU are no choice for tensors on CUDA, so they say nothing.</summary>
    [Theory]
    [MemberData(nameof(Kernels))]
    public void ARefusedCallHasOneLineInTheLog(string kernel) => AssertLogged(kernel, Refused[kernel].Reason, Refused[kernel].Call);

    [Fact]
    public void KeysThatRegistersCannotHoldAreRefused()
    {
        AssertLogged("GatedDelta.Cuda", "K is 257, and the registers of a block hold at most 256", () => Delta(zeros(1, 3, 2, 257)));
        AssertLogged("StateSpaceDuality.Cuda", "N is 300, and the registers of a block hold at most 256", () => Duality(zeros(1, 3, 2, 4), 300));
    }

    private static void AssertLogged(string kernel, string reason, Action call)
    {
        using var place = HostCuda.InPlaceOfTheCpu();
        using var scope = NewDisposeScope();
        var log = new ListLogger();
        KernelDispatcher.Forget();
        KernelDispatcher.Logger = log;
        try
        {
            call();
            call();
        }
        finally
        {
            KernelDispatcher.Logger = NullLogger.Instance;
        }

        Assert.Equal([$"{kernel}: the reference kernel runs, because {reason}"], log.Messages);
    }

    private static Tensor Double(params long[] shape) => zeros(shape, dtype: ScalarType.Float64);

    private static void DoubleAttention()
    {
        using var state = KeyValueState.Create(1, 2, 4, null, null, "none", ScalarType.Float64, CPU);
        Assert.Null(AttentionStepOnCuda.For(Double(1, 1, 8), state, null));
    }

    private static void Delta(Tensor q) => GatedDelta.Apply(q, q, q, q.select(3, 0));

    private static void Duality(Tensor x, long stateSize)
    {
        var matrix = zeros([x.size(0), x.size(1), 1, stateSize], dtype: x.dtype);
        StateSpaceDuality.Apply(x, x.select(3, 0), zeros(x.size(2), dtype: x.dtype), matrix, matrix);
    }
}
