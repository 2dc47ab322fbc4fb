using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster is a kernel than the same from tensor operations, forward, and with the backward pass? A class derives from this one for
/// each kernel and says its inputs and its two calls.
/// </summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public abstract class KernelBenchmarks
{
    private const string ForwardOnly = "forward";
    private const string WithBackward = "forward and backward";

    private Tensor? upstream;

    /// <summary>What <see cref="MakeInputs"/> made, each a leaf whose gradient the backward pass computes.</summary>
    protected Tensor[] Inputs { get; private set; } = [];

    /// <summary>What <see cref="MakeConstants"/> made, without gradients.</summary>
    protected Tensor[] Constants { get; private set; } = [];

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        using var scope = NewDisposeScope();
        Inputs = [.. MakeInputs().Select(tensor => tensor.requires_grad_(true).DetachFromDisposeScope())];
        Constants = [.. MakeConstants().Select(tensor => tensor.DetachFromDisposeScope())];
        upstream = MakeUpstream()?.DetachFromDisposeScope();
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        foreach (var owned in Inputs.Concat(Constants))
        {
            owned.Dispose();
        }

        upstream?.Dispose();
    }

    [BenchmarkCategory(ForwardOnly), Benchmark(Baseline = true)]
    public void ReferenceForward() => Forward(Reference);

    [BenchmarkCategory(ForwardOnly), Benchmark]
    public void FusedForward() => Forward(Fused);

    [BenchmarkCategory(WithBackward), Benchmark(Baseline = true)]
    public void ReferenceForwardAndBackward() => ForwardAndBackward(Reference);

    [BenchmarkCategory(WithBackward), Benchmark]
    public void FusedForwardAndBackward() => ForwardAndBackward(Fused);

    protected abstract Tensor[] MakeInputs();

    protected virtual Tensor[] MakeConstants() => [];

    /// <summary>The gradient of the output; null differentiates its sum.</summary>
    protected virtual Tensor? MakeUpstream() => null;

    /// <summary>The output from tensor operations.</summary>
    protected abstract Tensor Reference();

    /// <summary>The output of the kernel.</summary>
    protected abstract Tensor Fused();

    /// <summary>A call that would take the kernel by itself, made with all kernels off.</summary>
    protected static Tensor WithoutKernels(Func<Tensor> call)
    {
        KernelDispatcher.ReferenceOnly = true;
        try
        {
            return call();
        }
        finally
        {
            KernelDispatcher.ReferenceOnly = false;
        }
    }

    private static void Forward(Func<Tensor> call)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        call();
    }

    private void ForwardAndBackward(Func<Tensor> call)
    {
        using var scope = NewDisposeScope();
        var output = call();
        if (upstream is null)
        {
            output.sum().backward();
        }
        else
        {
            output.backward([upstream]);
        }
    }
}
