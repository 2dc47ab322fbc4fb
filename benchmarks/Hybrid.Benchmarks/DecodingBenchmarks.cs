using BenchmarkDotNet.Attributes;
using Hybrid.Kernels;
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

    // The projections to step sizes, B and C, which are part of the step between the two large ones, are smaller, and so is A.
    private const long SmallMatrix = 1_000_000;

    private CausalLanguageModel model = null!;
    private CompositeState state = null!;
    private MixerContext context = null!;
    private Tensor token = null!;
    private Tensor prompt = null!;
    private MemoryReader reader = null!;
    private Tensor[] matrices = [];
    private Dictionary<long, Tensor> inputs = [];

    /// <summary>Where the sum goes, so that the reading is not left out.</summary>
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
        reader = CreateReader(model);
        matrices = [.. model.parameters().Where(weight => weight.Dimensions == 2 && weight.numel() > SmallMatrix)];
        inputs = matrices.Select(weight => weight.size(1)).Distinct().ToDictionary(width => width, width => randn(1, 1, width));
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        state.Dispose();
        model.Dispose();
        token.Dispose();
        prompt.Dispose();
        inputs.Values.ToList().ForEach(input => input.Dispose());
    }

    [Benchmark(Baseline = true)]
    public void ReadAsManyBytes() => Sum = reader.Read();

    [Benchmark]
    public void Token()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        model.NextTokenLogits(token, context);
    }

    /// <summary>The products of a token with the large matrices alone: the projections of every layer, and the head.</summary>
    [Benchmark]
    public void ProductsOfAToken()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var weight in matrices)
        {
            LinearStep.Linear(inputs[weight.size(1)], weight);
        }
    }

    [Benchmark]
    public void Prefill512()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var fresh = model.CreateState(1);
        model.NextTokenLogits(prompt, new MixerContext { State = fresh });
    }

    private static MemoryReader CreateReader(CausalLanguageModel model) => new(model.CountParameters() * sizeof(float));

    private static CausalLanguageModel CreateModel()
    {
        var made = new CausalLanguageModel(new LanguageModelOptions
        {
            VocabSize = 50280, HiddenSize = 768, NumLayers = 24, Layers = ["mamba"], MaxSeqLen = int.MaxValue,
        });
        made.eval();
        return made;
    }
}
