using BenchmarkDotNet.Attributes;
using Hybrid.Routing;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>What adaptive mode saves: a parallel hybrid with default options at width 256, batch 1, when its gate takes each of the paths.</summary>
public class ParallelHybridBenchmarks
{
    private const long Width = 256;

    private SequenceMixer mixer = null!;
    private Tensor input = null!;

    [Params(512, 2047)]
    public long Time { get; set; }

    /// <summary>Null is weighted mode, the baseline.</summary>
    [Params(null, ParallelPath.Mamba, ParallelPath.Attention, ParallelPath.Fusion)]
    public ParallelPath? Path { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        mixer = MixerRegistry.Create(
            "parallel_hybrid", Width, new ParallelHybridOptions { Mode = Path is null ? ParallelHybridMode.Weighted : ParallelHybridMode.Adaptive });
        input = randn(1, Time, Width);
        if (Path is { } path)
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
