using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// How much faster are the mixers of elementwise recurrences, and the GRU, by their own kernels than by plain tensor operations (the GRU: by
/// torch's own)? Width 256, batch 1, at a round length and at a ragged one, and one token.
/// </summary>
[Config(typeof(KernelsAndReference))]
public class RecurrentMixerBenchmarks
{
    private const long Width = 256;

    private SequenceMixer mixer = null!;
    private MixerState state = null!;
    private Tensor input = null!;
    private Tensor token = null!;

    [Params("gated_ssm", "griffin_lru", "rwkv", "gru")]
    public string Mixer { get; set; } = "";

    [Params(512, 2047)]
    public long Time { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        mixer = MixerRegistry.Create(Mixer, Width);
        state = mixer.CreateState(1);
        (input, token) = (randn(1, Time, Width), randn(1, 1, Width));
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        mixer.Dispose();
        state.Dispose();
        input.Dispose();
        token.Dispose();
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

    [Benchmark]
    public void Token()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        mixer.forward(token, new MixerContext { State = state });
    }

    /// <summary>The same with and without fast kernels; the latter is the baseline.</summary>
    private sealed class KernelsAndReference : ManualConfig
    {
        private const string Variable = "HYBRID_KERNELS";

        public KernelsAndReference()
        {
            AddJob(Job.ShortRun.WithEnvironmentVariable(Variable, "reference").WithId("reference").AsBaseline());
            AddJob(Job.ShortRun.WithEnvironmentVariable(Variable, "auto").WithId("kernels"));
        }
    }
}
