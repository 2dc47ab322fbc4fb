using BenchmarkDotNet.Attributes;
using Hybrid.Modeling;

namespace Hybrid.Benchmarks;

/// <summary>What does drawing a token out of 50,280 cost, over sorting them by their logits?</summary>
public class TokenSamplerBenchmarks
{
    private const int Vocabulary = 50280;
    private static readonly HashSet<int> None = [];

    private readonly float[] logits = new float[Vocabulary];
    private readonly float[] sorted = new float[Vocabulary];
    private readonly int[] order = new int[Vocabulary];
    private readonly TokenSampler all = new(new GenerationOptions { Seed = 1 });
    private readonly TokenSampler topK = new(new GenerationOptions { Seed = 1, TopK = 50 });
    private readonly TokenSampler topP = new(new GenerationOptions { Seed = 1, TopP = 0.9 });

    [GlobalSetup]
    public void Setup()
    {
        // About normal, with a few likely tokens, as trained models have them.
        var random = new Random(1);
        for (var token = 0; token < Vocabulary; token++)
        {
            logits[token] = (float)(Enumerable.Range(0, 12).Sum(_ => random.NextDouble()) - 6) * 2;
        }

        for (var token = 0; token < 20; token++)
        {
            logits[random.Next(Vocabulary)] += 12;
        }
    }

    [Benchmark(Baseline = true)]
    public void Sort()
    {
        logits.CopyTo(sorted, 0);
        for (var token = 0; token < Vocabulary; token++)
        {
            order[token] = token;
        }

        Array.Sort(sorted, order);
    }

    [Benchmark]
    public int All() => all.Sample(logits, None);

    [Benchmark]
    public int TopK50() => topK.Sample(logits, None);

    [Benchmark]
    public int TopP90() => topP.Sample(logits, None);
}
