using BenchmarkDotNet.Attributes;
using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>How much faster is the RMS norm, plain and with a gate, as one pass over the rows than as tensor operations?</summary>
public class NormBenchmarks : KernelBenchmarks
{
    private const long Rows = 2048;

    [Params(768, 1535)]
    public long Width { get; set; }

    [Params("plain", "gate first", "gate last")]
    public string Form { get; set; } = "";

    private NormForm Norm => new(1e-5, Form switch { "gate first" => GateOrder.BeforeNorm, "gate last" => GateOrder.AfterNorm, _ => GateOrder.None });

    private Tensor? Gate => Norm.Gate == GateOrder.None ? null : Inputs[2];

    protected override Tensor[] MakeInputs() => [randn(Rows, Width), randn(Width), randn(Rows, Width)];

    protected override Tensor MakeUpstream() => randn(Rows, Width);

    protected override Tensor Reference() => RootMeanSquare.Reference(Inputs[0], Inputs[1], Gate, Norm);

    protected override Tensor Fused() => RootMeanSquare.Apply(Inputs[0], Inputs[1], Norm, Gate);
}
