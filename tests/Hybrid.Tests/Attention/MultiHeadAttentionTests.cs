using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

public class MultiHeadAttentionTests
{
    private const int Width = 24;

    // float32 against double, sums of at most 70 products.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Variants => new(Options.Keys);

    private static readonly Dictionary<string, AttentionOptions> Options = new()
    {
        ["plain"] = new() { NumHeads = 4, UseRope = false },
        ["rotary"] = new() { NumHeads = 4 },
        ["grouped"] = new() { NumHeads = 4, NumKeyValueHeads = 2 },
        ["multi-query"] = new() { NumHeads = 6, NumKeyValueHeads = 1 },
        ["one head"] = new() { NumHeads = 1 },
        ["narrow heads"] = new() { NumHeads = 5, HeadDim = 2 },
        ["wide heads"] = new() { NumHeads = 2, HeadDim = 20, NumKeyValueHeads = 1 },
        ["window"] = new() { NumHeads = 4, WindowSize = 5 },
        ["window of one"] = new() { NumHeads = 4, WindowSize = 1 },
        ["window beyond the sequence"] = new() { NumHeads = 4, WindowSize = 100 },
        ["partial rotary"] = new() { NumHeads = 3, PartialRotaryFactor = 0.5, RopeTheta = 500 },
        ["query-key norm"] = new() { NumHeads = 3, QkLayernorm = true },
        ["biases"] = new() { NumHeads = 4, UseBias = true },
        ["scale"] = new() { NumHeads = 4, Scale = 1.3 },
        ["soft cap"] = new() { NumHeads = 4, SoftCap = 0.4 },
        ["soft cap, scale, groups and window"] = new() { NumHeads = 6, NumKeyValueHeads = 2, SoftCap = 0.6, Scale = 2, WindowSize = 6 },
        ["stretched rotary"] = new() { NumHeads = 4, RopeScaling = new() { Kind = RopeScalingKind.Linear, Factor = 3 } },
        ["chunked"] = new() { NumHeads = 4, Mode = AttentionMode.Chunked, ChunkSize = 5 },
        ["chunked, groups and window"] = new() { NumHeads = 4, NumKeyValueHeads = 2, WindowSize = 6, Mode = AttentionMode.Chunked, ChunkSize = 4 },
        ["chunked, soft cap"] = new() { NumHeads = 4, NumKeyValueHeads = 1, SoftCap = 0.5, Mode = AttentionMode.Chunked, ChunkSize = 7 },
        ["online"] = new() { NumHeads = 4, Mode = AttentionMode.Online, ChunkSize = 5 },
        ["online, groups, window and soft cap"] = new()
        {
            NumHeads = 4, NumKeyValueHeads = 2, WindowSize = 6, SoftCap = 0.5, Mode = AttentionMode.Online, ChunkSize = 4,
        },
        ["all at once"] = new()
        {
            NumHeads = 4, NumKeyValueHeads = 2, HeadDim = 10, WindowSize = 7, PartialRotaryFactor = 0.4, QkLayernorm = true, UseBias = true,
        },
    };

    [Theory]
    [MemberData(nameof(Variants))]
    public void EqualsTheSumOverPairs(string variant)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(3);
        using var mixer = new MultiHeadAttention(Width, Options[variant]);
        var oracle = new NaiveAttention(mixer, Options[variant]);
        foreach (var time in new[] { 1, 2, 23 })
        {
            var x = Values.Normal(4, 2, time, Width);
            var y = mixer.call(x);
            for (var row = 0; row < 2; row++)
            {
                var expected = Values.Tensor32(oracle.Run(Values.Of(x[row])), time, Width);
                TensorAssert.Close(expected, y[row], Tolerance, $"{variant}, T = {time}, row {row}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void StepsOverACacheThatGrowsEqualTheSumOverPairs(string variant)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(3);
        using var mixer = new MultiHeadAttention(Width, Options[variant]);
        var x = Values.Normal(5, 1, 70, Width);
        using var state = mixer.CreateState(1);
        var steps = x.split(1, 1).Select(step => mixer.forward(step, new MixerContext { State = state })).ToArray();
        var expected = new NaiveAttention(mixer, Options[variant]).Run(Values.Of(x));
        TensorAssert.Close(Values.Tensor32(expected, 1, 70, Width), cat(steps, 1), Tolerance, variant);
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void GradientsFlowThroughTheCacheToTheNewTokens(string variant)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        using var mixer = new MultiHeadAttention(Width, Options[variant]);
        var weights = Values.Normal(6, 2, 9, Width);
        var (plain, cached) = (Values.Normal(7, 2, 9, Width).requires_grad_(true), Values.Normal(7, 2, 9, Width).requires_grad_(true));
        (mixer.call(plain) * weights).sum().backward();
        using var state = mixer.CreateState(2);
        (mixer.forward(cached, new MixerContext { State = state }) * weights).sum().backward();
        TensorAssert.Close(plain.grad!, cached.grad!, Tolerance, variant);
    }

    [Fact]
    public void GradientsAgreeWithFiniteDifferences()
    {
        manual_seed(3);
        using var mixer = new MultiHeadAttention(6, new AttentionOptions { NumHeads = 2, NumKeyValueHeads = 1, WindowSize = 3, HeadDim = 4 });
        mixer.to(ScalarType.Float64);
        using var x = Values.Normal(8, 2, 5, 6).to_type(ScalarType.Float64);
        FiniteDifferences.Check(inputs => [mixer.call(inputs[0])], [x]);
    }

    [Fact]
    public void DropoutActsWhileTrainingOnly()
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 4, DropoutRate = 0.5 });
        var x = Values.Normal(9, 1, 12, Width);
        mixer.eval();
        TensorAssert.Identical(mixer.call(x), mixer.call(x), "in evaluation");
        mixer.train();
        Assert.True(TensorAssert.RelativeError(mixer.call(x), mixer.call(x)) > 1e-2, "two training passes drop different weights");
    }

    [Fact]
    public void ProjectionsHaveTheirHeadsAndNames()
    {
        using var mixer = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 4, NumKeyValueHeads = 2, HeadDim = 10, UseBias = true });
        var shapes = mixer.named_parameters().ToDictionary(entry => entry.name, entry => string.Join(',', entry.parameter.shape));
        Assert.Equal(
            new Dictionary<string, string>
            {
                ["q_proj.weight"] = "40,24", ["q_proj.bias"] = "40", ["k_proj.weight"] = "20,24", ["k_proj.bias"] = "20",
                ["v_proj.weight"] = "20,24", ["v_proj.bias"] = "20", ["o_proj.weight"] = "24,40",
            },
            shapes);
        Assert.Same(mixer.get_parameter("o_proj.weight"), Assert.Single(mixer.ResidualOutputWeights));
        Assert.Empty(mixer.ParametersWithoutWeightDecay);
    }

    [Fact]
    public void EveryOptionOfTheScoresHasItsKeyInToml()
    {
        const string Text = """
            [model]
            attention.mode = "online"
            attention.chunk_size = 7
            attention.scale = 0.5
            attention.soft_cap = 30
            [model.attention.rope_scaling]
            kind = "llama3"
            factor = 8
            original_max_position_embeddings = 8_192
            low_freq_factor = 2
            high_freq_factor = 5
            beta_fast = 31
            beta_slow = 3
            """;
        var expected = new AttentionOptions
        {
            Mode = AttentionMode.Online,
            ChunkSize = 7,
            Scale = 0.5,
            SoftCap = 30,
            RopeScaling = new()
            {
                Kind = RopeScalingKind.Llama3, Factor = 8, OriginalMaxPositionEmbeddings = 8192, LowFreqFactor = 2, HighFreqFactor = 5,
                BetaFast = 31, BetaSlow = 3,
            },
        };
        var config = HybridConfig.Parse(Text);
        Assert.Equal(expected, config.Model!.Mixers["attention"]);
        Assert.Equal(expected, HybridConfig.Parse(config.ToToml()).Model!.Mixers["attention"]);

        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse(Text.Replace("factor = 8\n", "factor = 0.5\n", StringComparison.Ordinal)));
        Assert.Equal("configuration(8,1): [model.attention.rope_scaling] factor: expected at least 1; found 0.5", error.Message);
    }

    public static TheoryData<string, AttentionOptions> BadOptions => new()
    {
        { "AttentionOptions.NumHeads must be at least 1; got 0.", new AttentionOptions { NumHeads = 0 } },
        { "AttentionOptions.NumKeyValueHeads must be at least 1; got 0.", new AttentionOptions { NumKeyValueHeads = 0 } },
        { "AttentionOptions: NumKeyValueHeads must divide NumHeads, 8; got 3.", new AttentionOptions { NumKeyValueHeads = 3 } },
        { "AttentionOptions: NumKeyValueHeads must divide NumHeads, 8; got 16.", new AttentionOptions { NumKeyValueHeads = 16 } },
        { "AttentionOptions: the width, 24, must be a multiple of NumHeads, 7, unless HeadDim is set.", new AttentionOptions { NumHeads = 7 } },
        { "AttentionOptions.HeadDim must be at least 1; got 0.", new AttentionOptions { HeadDim = 0 } },
        { "AttentionOptions.WindowSize must be at least 1; got 0.", new AttentionOptions { WindowSize = 0 } },
        { "AttentionOptions.ChunkSize must be at least 1; got 0.", new AttentionOptions { ChunkSize = 0 } },
        { "AttentionOptions.Scale must be positive; got 0.", new AttentionOptions { Scale = 0 } },
        { "AttentionOptions.SoftCap must be positive; got -1.", new AttentionOptions { SoftCap = -1 } },
        { "RopeScaling.Factor must be at least 1; got 0.", new AttentionOptions { RopeScaling = new() { Factor = 0 } } },
        { "AttentionOptions.MaxLength must be at least 1; got -1.", new AttentionOptions { MaxLength = -1 } },
        { "AttentionOptions.RopeTheta must be positive; got 0.", new AttentionOptions { RopeTheta = 0 } },
        { "AttentionOptions.PartialRotaryFactor must be positive; got 0.", new AttentionOptions { PartialRotaryFactor = 0 } },
        { "AttentionOptions.PartialRotaryFactor must be 0..1; got 1.5.", new AttentionOptions { PartialRotaryFactor = 1.5 } },
        { "AttentionOptions.DropoutRate must be 0 or more and below 1; got 1.", new AttentionOptions { DropoutRate = 1 } },
        { "AttentionOptions: HeadDim times PartialRotaryFactor, the channels that turn, must be even and positive; got 3.", new AttentionOptions { NumHeads = 8, HeadDim = 3 } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, AttentionOptions options)
    {
        var error = Assert.ThrowsAny<ArgumentException>(() => new MultiHeadAttention(Width, options));
        Assert.StartsWith(text, error.Message, StringComparison.Ordinal);
    }
}
