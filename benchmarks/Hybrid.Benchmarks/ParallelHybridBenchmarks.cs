using BenchmarkDotNet.Attributes;
using Hybrid.Routing;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>What adaptive mode saves: a parallel hybrid with default options at width 256, batch 1, when its gate takes each of the paths.</summary>
public class ParallelHybridBenchmarks
{
    private const long Width = 256;
    private const string All = "all";

    private SequenceMixer mixer = null!;
    private Tensor input = null!;

    [Params(512, 2047)]
    public long Time { get; set; }

    /// <summary>The path that adaptive mode takes; "all" is weighted mode, the baseline.</summary>
    [Params(All, nameof(ParallelPath.Mamba), nameof(ParallelPath.Attention), nameof(ParallelPath.Fusion))]
    public string Path { get; set; } = All;

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        mixer = MixerRegistry.Create(
            "parallel_hybrid", Width, new ParallelHybridOptions { Mode = Path == All ? ParallelHybridMode.Weighted : ParallelHybridMode.Adaptive });
        input = randn(1, Time, Width);
        if (Enum.TryParse<ParallelPath>(Path, out var path))
        {
            using var scope = NewDisposeScope();
            using var guard = no_grad();
            mixer.get_parameter("analyser.fc3.bias")!.narrow(0, (long)path, 1).fill_(5);
        }
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        mixer.Dispose();
        input.Dispose();
    }

    [Benchmark]
    public void Forward()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        mixer.call(input);
    }
}
