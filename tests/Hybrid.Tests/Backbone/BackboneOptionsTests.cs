using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Mixers;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

public class BackboneOptionsTests
{
    [Fact]
    public void TheRecommendedDefaults()
    {
        var options = BackboneOptions.RecommendedDefaults;
        Assert.Equal((256, 6, 3, "mamba"), (options.HiddenSize, options.NumLayers, options.AttentionEvery, options.Backbone));
        Assert.Equal((16, 2, 4), (options.StateSize, options.ExpandFactor, options.ConvSize));
        Assert.Equal((4, 64, 60, true, true), (options.NumHeads, options.HeadDim, options.WindowSize, options.UseSlidingWindow, options.QkLayernorm));
        Assert.Equal((false, false, 32), (options.ChunkedAttention, options.MemoryEfficientAttention, options.ChunkSize));
        Assert.Equal((0.1, true, null, null), (options.Dropout, options.PreNorm, options.SeqLen, options.EmbedDim));
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = new BackboneBuilder(options).Build();
        Assert.Equal("m m a m m a", backbone.Pattern.ToString());
        Assert.Equal([512, 16], backbone.get_parameter("layers.0.mixer.A_log")!.shape);
        Assert.Equal([1024, 256], backbone.get_parameter("layers.2.ffn.up_proj.weight")!.shape);
        Assert.Null(backbone.get_parameter("layers.0.ffn.up_proj.weight"));
        Assert.Equal([1, 3, 256], backbone.call(randn(1, 3, 256)).shape);
    }

    [Theory]
    [InlineData("mamba", 16, 2, 3)]
    [InlineData("mamba2", 16, 2, 3)]
    [InlineData("delta_net", 16, 2, 3)]
    [InlineData("gated_delta_net", 16, 2, 3)]
    [InlineData("griffin_lru", 16, 2, 3)]
    [InlineData("gated_ssm", 16, 3, 4)]
    [InlineData("gru", 16, 2, 4)]
    [InlineData("rwkv", 16, 2, 4)]
    [InlineData("parallel", 16, 2, 4)]
    public void EveryBackboneIsBuiltAndRuns(string backbone, long stateSize, long expandFactor, long convSize)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var options = new BackboneOptions
        {
            HiddenSize = 16, NumLayers = 3, Backbone = backbone, HeadDim = 8, NumHeads = 2, EmbedDim = 5, Output = BackboneOutput.Last,
            StateSize = stateSize, ExpandFactor = expandFactor, ConvSize = convSize,
        };
        using var built = new BackboneBuilder(options).Build();
        Assert.Equal([2, 16], built.call(Values.Normal(1, 2, 7, 5)).shape);
        Assert.Equal((5, 16), (built.InputWidth, built.OutputSize));
    }

    [Fact]
    public void SharedOptionsReachTheMixers()
    {
        var options = new BackboneOptions
        {
            StateSize = 3, ExpandFactor = 5, ConvSize = 6, NumHeads = 7, HeadDim = 8, UseSlidingWindow = false, QkLayernorm = false,
            MemoryEfficientAttention = true, ChunkSize = 9, SeqLen = 10,
        };
        var shared = new SharedMixerOptions(options, options.ResolvePattern());
        Assert.Equal(new MambaOptions { DState = 3, ExpandFactor = 5, DConv = 6 }, shared.Of("mamba"));
        Assert.Equal(
            new AttentionOptions { NumHeads = 7, HeadDim = 8, UseRope = false, Mode = AttentionMode.Online, ChunkSize = 9, MaxLength = 10 },
            shared.Of("attention"));
        var chunked = new BackboneOptions { ChunkedAttention = true, WindowSize = 11 };
        Assert.Equal(
            new AttentionOptions { NumHeads = 4, HeadDim = 64, UseRope = false, QkLayernorm = true, Mode = AttentionMode.Chunked, WindowSize = 11 },
            new SharedMixerOptions(chunked, chunked.ResolvePattern()).Of("attention"));
    }

    [Fact]
    public void AFactoryReceivesTheOptions()
    {
        var options = new BackboneOptions
        {
            HiddenSize = 8, NumLayers = 2, AttentionEvery = 3, Backbone = "custom", StateSize = 77,
            Custom = received => new ScalingMixer(received.HiddenSize, received.StateSize),
        };
        using var backbone = new BackboneBuilder(options).Build();
        Assert.Equal("custom custom", backbone.Pattern.ToString());
        Assert.IsType<ScalingMixer>(backbone.Blocks[0].Mixer);
    }

    [Fact]
    public void WhatHasNoEffectIsRefused()
    {
        Expect("BackboneOptions: StateSize is 8, but no layer takes it from here; the layers are gru, attention.", new() { Backbone = "gru", StateSize = 8 });
        Expect("BackboneOptions: WindowSize is 8, but no layer takes it from here; the layers are mamba.", new() { AttentionEvery = 7, WindowSize = 8 });
        Expect(
            "BackboneOptions: ConvSize is 8, but no layer takes it from here; the layers are mamba, attention.",
            new() { ConvSize = 8, Mixers = new Dictionary<string, object> { ["mamba"] = new MambaOptions() } });
        Expect("BackboneOptions: ChunkedAttention and MemoryEfficientAttention exclude each other.", new() { ChunkedAttention = true, MemoryEfficientAttention = true });
        Expect("BackboneOptions: SeqLen must be given for a learned PositionEncoding.", new() { PositionEncoding = PositionEncodingKind.Learned });
        Expect("BackboneOptions.Dropout must be 0 or more and below 1; got 1.", new() { Dropout = 1 });
        Expect("BackboneOptions: state the layers in one way only; got AttentionEvery and Ratio.", new() { AttentionEvery = 2, Ratio = new() });
        Expect(
            "BackboneOptions: HybridOverridePattern must have a symbol for each of the 6 layers; got 2, 'M*'.", new() { HybridOverridePattern = "M*" });
        Expect(
            "BackboneBuilder: a factory is given for 'custom', but no layer has it;", new() { Custom = options => new ScalingMixer(options.HiddenSize, 1) });

        static void Expect(string text, BackboneOptions options) => Assert.StartsWith(
            text, Assert.ThrowsAny<ArgumentException>(() => new BackboneBuilder(options).Build()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void EveryKeyReachesItsProperty()
    {
        const string text = """
            [backbone]
            embed_dim = 5
            hidden_size = 32
            num_layers = 8
            ratio = { backbone = 3, attention = 1 }
            backbone = "mamba"
            state_size = 7
            expand_factor = 3
            conv_size = 2
            num_heads = 2
            head_dim = 10
            window_size = 11
            use_sliding_window = true
            qk_layernorm = false
            use_rope = true
            chunked_attention = true
            memory_efficient_attention = false
            chunk_size = 12
            dropout = 0.2
            pre_norm = false
            norm_eps = 1e-6
            seq_len = 100
            position_encoding = "learned"
            output = "last"
            use_gradient_checkpointing = true
            feed_forward = { kind = "swiglu" }
            """;
        var config = HybridConfig.Parse(text);
        var expected = new BackboneOptions
        {
            EmbedDim = 5, HiddenSize = 32, NumLayers = 8, Ratio = new() { Backbone = 3, Attention = 1 }, Backbone = "mamba", StateSize = 7,
            ExpandFactor = 3, ConvSize = 2, NumHeads = 2, HeadDim = 10, WindowSize = 11, QkLayernorm = false, UseRope = true,
            ChunkedAttention = true, ChunkSize = 12, Dropout = 0.2, PreNorm = false, NormEps = 1e-6, SeqLen = 100,
            PositionEncoding = PositionEncodingKind.Learned, Output = BackboneOutput.Last, UseGradientCheckpointing = true, FeedForward = new(),
        };
        Assert.Equivalent(expected, config.Backbone, strict: true);
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
        using var backbone = new BackboneBuilder(config.Backbone!).Build();
        Assert.Equal("m m m a m m m a", backbone.Pattern.ToString());
    }

    [Fact]
    public void ATableOfAMixerSaysAllOfIt()
    {
        var config = HybridConfig.Parse("[backbone]\nlayers = ['mamba', 'mlp', 'custom']\nnum_layers = 3\n[backbone.mamba]\nd_state = 5");
        Assert.Equal(new MambaOptions { DState = 5 }, config.Backbone!.Mixers["mamba"]);
        Assert.Equal(["mamba", "mlp", "custom"], config.Backbone.ResolvePattern().Mixers);
    }

    [Theory]
    [InlineData("[backbone]\n\nbackbone = 'gru'\n  state_size = 8", "(4,3): [backbone] state_size: state_size is 8, but no layer takes it from here; the layers are gru, attention")]
    [InlineData("[backbone]\nchunk_size = 0", "(2,1): [backbone] chunk_size: expected at least 1; found 0")]
    [InlineData("[backbone]\nstat_size = 8", "(2,1): [backbone] stat_size: unknown key; did you mean 'state_size'?")]
    [InlineData("[backbone]\nbackbone = 'mambo'", "(2,1): [backbone] backbone: there is no mixer 'mambo'; did you mean 'mamba'?")]
    [InlineData("[backbone]\nposition_encoding = 'learned'", "(2,1): [backbone] position_encoding: seq_len must be given for a learned position_encoding")]
    public void ErrorsOfTheTableNameTheKey(string toml, string message) => Assert.StartsWith(
        $"x.toml{message}", Assert.Throws<HybridConfigException>(() => HybridConfig.Parse(toml, "x.toml")).Message, StringComparison.Ordinal);
}
