using System.Numerics;
using BenchmarkDotNet.Attributes;
using Hybrid.Modeling;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Benchmarks;

/// <summary>
/// A model of the size of mamba-130m (24 layers, width 768, N 16, 50,280 tokens, float32, random weights) at batch 1: a token against
/// reading as many bytes as the weights have, which no code can beat, and a prompt of 512 tokens. Tokens a second are 1 / mean, or 512 / mean.
/// </summary>
public class DecodingBenchmarks
{
    private const int Prompt = 512;
    private const int PartFloats = 1 << 16;

    private CausalLanguageModel model = null!;
    private CompositeState state = null!;
    private MixerContext context = null!;
    private Tensor token = null!;
    private Tensor prompt = null!;
    private float[] bytes = [];

    /// <summary>Where the sums go, so that the loop that reads is not left out.</summary>
    public float Sum { get; private set; }

    [GlobalSetup]
    public void Setup()
    {
        manual_seed(1);
        model = CreateModel();
        state = model.CreateState(1);
        context = new MixerContext { State = state };
        token = tensor(new long[] { 17 }).view(1, 1);
        prompt = randint(0, model.Options.VocabSize, [1, Prompt], dtype: ScalarType.Int64);
        bytes = new float[(model.CountParameters() + PartFloats - 1) / PartFloats * PartFloats];
        Array.Fill(bytes, 1);
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        state.Dispose();
        model.Dispose();
        token.Dispose();
        prompt.Dispose();
    }

    [Benchmark(Baseline = true)]
    public void ReadAsManyBytes() =>
        Parallel.For(0, bytes.Length / PartFloats, new ParallelOptions { MaxDegreeOfParallelism = get_num_threads() }, part => Sum = SumOf(part));

    [Benchmark]
    public void Token()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        model.NextTokenLogits(token, context);
    }

    [Benchmark]
    public void Prefill512()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var fresh = model.CreateState(1);
        model.NextTokenLogits(prompt, new MixerContext { State = fresh });
    }

    private static CausalLanguageModel CreateModel()
    {
        var made = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 50280, HiddenSize = 768, NumLayers = 24, Layers = ["mamba"], MaxSeqLen = int.MaxValue,
        });
        made.eval();
        return made;
    }

    private float SumOf(int part)
    {
        var floats = bytes.AsSpan(part * PartFloats, PartFloats);
        var (a, b, c, d) = (Vector<float>.Zero, Vector<float>.Zero, Vector<float>.Zero, Vector<float>.Zero);
        for (var lanes = Vector<float>.Count; floats.Length > 0; floats = floats[(4 * lanes)..])
        {
            a += new Vector<float>(floats);
            b += new Vector<float>(floats[lanes..]);
            c += new Vector<float>(floats[(2 * lanes)..]);
            d += new Vector<float>(floats[(3 * lanes)..]);
        }

        return Vector.Sum(a + b + c + d);
    }
}
