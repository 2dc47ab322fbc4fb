using BenchmarkDotNet.Attributes;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// Every registered mixer with its default options at width 256, batch 1: does the cost of a token stay the same as the sequence grows?
/// </summary>
public class MixerBenchmarks
{
    private const long Width = 256;

    private SequenceMixer mixer = null!;
    private Tensor input = null!;

    [ParamsSource(nameof(Names))]
    public string Mixer { get; set; } = "";

    [Params(512, 2048, 8192)]
    public long Time { get; set; }

    /// <summary>Those that the environment variable HYBRID_MIXERS names, with commas; else all but the router, which runs one of two others.</summary>
    public static IEnumerable<string> Names =>
        Environment.GetEnvironmentVariable("HYBRID_MIXERS")?.Split(',') ?? MixerRegistry.Names.Where(name => name != "hybrid_attention");

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        mixer = MixerRegistry.Create(Mixer, Width);
        input = randn(1, Time, Width);
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

    [Benchmark]
    public void ForwardAndBackward()
    {
        using var scope = NewDisposeScope();
        mixer.call(input).sum().backward();
    }
}
