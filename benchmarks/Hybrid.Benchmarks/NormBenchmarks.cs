using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>How much faster is the RMS norm, plain and with a gate, as one pass over the rows than as tensor operations?</summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class NormBenchmarks
{
    private const long Rows = 2048;

    private Tensor[] inputs = [];
    private Tensor upstream = null!;
    private NormForm form = null!;

    [Params(768, 1535)]
    public long Width { get; set; }

    [Params("plain", "gate first", "gate last")]
    public string Form { get; set; } = "";

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(3);
        form = new NormForm(1e-5, Form switch { "gate first" => GateOrder.BeforeNorm, "gate last" => GateOrder.AfterNorm, _ => GateOrder.None });
        inputs = [.. new[] { randn(Rows, Width), randn(Width), randn(Rows, Width) }.Select(tensor => tensor.requires_grad_(true))];
        upstream = randn(Rows, Width);
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        foreach (var owned in inputs.Append(upstream))
        {
            owned.Dispose();
        }
    }

    [BenchmarkCategory("forward"), Benchmark(Baseline = true)]
    public void ReferenceForward() => Forward(Reference);

    [BenchmarkCategory("forward"), Benchmark]
    public void FusedForward() => Forward(Fused);

    [BenchmarkCategory("forward and backward"), Benchmark(Baseline = true)]
    public void ReferenceForwardAndBackward() => ForwardAndBackward(Reference);

    [BenchmarkCategory("forward and backward"), Benchmark]
    public void FusedForwardAndBackward() => ForwardAndBackward(Fused);

    private Tensor? Gate => form.Gate == GateOrder.None ? null : inputs[2];

    private static void Forward(Func<Tensor> norm)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        norm();
    }

    private void ForwardAndBackward(Func<Tensor> norm)
    {
        using var scope = NewDisposeScope();
        norm().backward([upstream]);
    }

    private Tensor Reference() => RootMeanSquare.Reference(inputs[0], inputs[1], Gate, form);

    private Tensor Fused() => RootMeanSquare.Apply(inputs[0], inputs[1], form, Gate);
}
