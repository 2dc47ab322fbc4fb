using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Routing;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

public class BackboneBuilderTests
{
    [Fact]
    public void TheDefaultIsSixLayersWithAttentionAtEveryThird()
    {
        using var backbone = new BackboneBuilder(16).Build();
        Assert.Equal("m m a m m a", backbone.Pattern.ToString());
        Assert.Equal(
            [typeof(MambaMixer), typeof(MambaMixer), typeof(MultiHeadAttention), typeof(MambaMixer), typeof(MambaMixer), typeof(MultiHeadAttention)],
            backbone.Blocks.Select(block => block.Mixer!.GetType()));
        Assert.Equal((16, 16), (backbone.InputWidth, backbone.OutputSize));
    }

    [Fact]
    public void OptionsReachEveryLayerOfTheirMixer()
    {
        using var backbone = new BackboneBuilder(8)
            .WithPattern(LayerPattern.Cycle(4, ["mamba", "attention"]))
            .WithMixer("mamba", new MambaOptions { DState = 3 })
            .WithMixer("attention", new AttentionOptions { NumHeads = 2, HeadDim = 6 })
            .WithBlocks(new BlockOptions { FeedForward = new() { IntermediateSize = 6 } })
            .Build();
        foreach (var layer in new[] { 0, 2 })
        {
            Assert.Equal([16, 3], backbone.get_parameter($"layers.{layer}.mixer.A_log")!.shape);
            Assert.Equal([12, 8], backbone.get_parameter($"layers.{layer + 1}.mixer.q_proj.weight")!.shape);
            Assert.Equal([6, 8], backbone.get_parameter($"layers.{layer}.ffn.up_proj.weight")!.shape);
        }
    }

    [Fact]
    public void ARouterInABlockLeavesNormsAndResidualsToTheBlock()
    {
        using var backbone = new BackboneBuilder(8)
            .WithPattern(LayerPattern.Cycle(1, ["hybrid_attention"]))
            .WithMixer("hybrid_attention", new HybridAttentionOptions { MambaThreshold = 9, AttentionConfig = new() { NumHeads = 2 } })
            .Build();
        var router = Assert.IsType<HybridAttention>(backbone.Blocks[0].Mixer);
        Assert.Equal(9, router.Decide(4).Threshold);
        Assert.Equal(
            ["layers.0.norm.weight", "norm_f.weight"],
            backbone.state_dict().Keys.Where(key => key.Contains("norm", StringComparison.Ordinal)).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void OneSeedGivesOneBackbone()
    {
        using var scope = NewDisposeScope();
        var builder = new BackboneBuilder(16);
        manual_seed(4);
        using var first = builder.Build();
        manual_seed(4);
        using var second = builder.Build();
        Assert.All(first.state_dict(), entry => Assert.True(entry.Value.eq(second.state_dict()[entry.Key]).all().ToBoolean(), entry.Key));
    }

    [Fact]
    public void ErrorsNameTheLayer()
    {
        Expect(
            "BackboneBuilder: layer 1 ('mambo') cannot be built: MixerRegistry: there is no mixer 'mambo'",
            new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(3, ["mamba", "mambo"])));
        Expect(
            "BackboneBuilder: layer 2 ('attention') cannot be built: AttentionOptions.NumHeads must be at least 1; got 0.",
            new BackboneBuilder(8).WithMixer("attention", new AttentionOptions { NumHeads = 0 }));
        Expect(
            "BackboneBuilder: layer 0 ('mamba') cannot be built: MixerRegistry: 'mamba' takes MambaOptions; got AttentionOptions.",
            new BackboneBuilder(8).WithMixer("mamba", new AttentionOptions()));
        Expect(
            "BackboneBuilder: layer 0 ('mamba') cannot be built: BlockOptions.NormEps must be positive; got -1.",
            new BackboneBuilder(8).WithBlocks(new BlockOptions { NormEps = -1 }));
        Expect(
            "BackboneBuilder: layer 0 ('hybrid_attention') cannot be built: MixerRegistry: 'hybrid_attention' takes HybridAttentionOptions; got MambaOptions.",
            new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(1, ["hybrid_attention"])).WithMixer("hybrid_attention", new MambaOptions()));
        Expect(
            "BackboneBuilder: layer 0 ('hybrid_attention') cannot be built: IntermediateSize, DropoutRate and LayerNormEps are for a router that stands alone;",
            new BackboneBuilder(16).WithPattern(LayerPattern.Cycle(1, ["hybrid_attention"]))
                .WithMixer("hybrid_attention", new HybridAttentionOptions { DropoutRate = 0.2 }));
        Expect(
            "BackboneBuilder: options are given for 'mamba', but no layer has it; the layers are attention, attention.",
            new BackboneBuilder(8).WithPattern(LayerPattern.Every(2, 1)).WithMixer("mamba", new MambaOptions()));

        static void Expect(string text, BackboneBuilder builder) =>
            Assert.StartsWith(text, Assert.ThrowsAny<ArgumentException>(builder.Build).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void WidthsBelowOneAreRefused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new BackboneBuilder(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new BackboneBuilder(8).WithInputWidth(0));
    }

    [Fact]
    public void AFeedForwardLayerThatExpertsReplaceEverywhereIsRefused()
    {
        var builder = new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(2, ["mamba"]))
            .WithBlocks(new BlockOptions { FeedForward = new() }).WithExperts(new MixtureOfExpertsOptions { NumExperts = 2, TopK = 1 });
        Assert.Contains("experts take its place in every layer", Assert.Throws<ArgumentException>(builder.Build).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void FeedForwardLayersThatNoLayerWouldHaveAreRefused()
    {
        var blocks = new BlockOptions { FeedForward = new() };
        Expect("a feed-forward layer is given, but the pattern states its feed-forward layers and has no 'mlp': mamba, experts.", "ME", blocks, null);
        Expect("options are given, but the pattern states its feed-forward layers and has no 'experts': mamba, mlp.", "M-", blocks, new());
        Expect("the pattern says which layers are experts;", "ME", new(), new() { ExpertEvery = 2 });

        static void Expect(string text, string symbols, BlockOptions blocks, MixtureOfExpertsOptions? experts)
        {
            var builder = new BackboneBuilder(8).WithPattern(LayerPattern.FromSymbols(symbols)).WithBlocks(blocks).WithExperts(experts);
            Assert.StartsWith($"BackboneBuilder: {text}", Assert.Throws<ArgumentException>(builder.Build).Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void AFactoryMakesAMixerForEachOfItsLayers()
    {
        var made = 0;
        using var backbone = new BackboneBuilder(8).WithPattern(LayerPattern.Every(4, 2, "custom"))
            .WithMixer("attention", new AttentionOptions { NumHeads = 2 })
            .WithFactory("custom", width => new ScalingMixer(width, ++made)).Build();
        Assert.Equal("custom a custom a", backbone.Pattern.ToString());
        Assert.Equal(2, made);
        Assert.IsType<ScalingMixer>(backbone.Blocks[2].Mixer);
    }

    [Fact]
    public void AMixerOfTheUsersOwnIsTriedWhenTheBackboneIsBuilt()
    {
        Expect("BackboneBuilder: layer 0 ('custom') cannot be built: ScalingMixer: the width must be 8; got 4.", _ => new ScalingMixer(4, 1));
        Expect(
            "BackboneBuilder: layer 0 ('custom') cannot be built: WideningMixer: the output for Float32 [2, 3, 8] must be of the same type and shape; got Float32 [2, 3, 16].",
            width => new WideningMixer(width));
        Expect("BackboneBuilder: layer 0 ('custom') cannot be built: the factory must make a mixer of width 8; got null.", _ => null!);
        var missing = Assert.Throws<ArgumentException>(new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(1, ["custom"])).Build);
        Assert.Contains("'custom' needs a factory", missing.Message, StringComparison.Ordinal);
        var reserved = Assert.Throws<ArgumentException>(() => MixerRegistry.Register<MambaOptions>("mlp", (width, _) => new ScalingMixer(width, 1)));
        Assert.Contains("'mlp' has a meaning of its own", reserved.Message, StringComparison.Ordinal);

        static void Expect(string text, Func<long, SequenceMixer> create) => Assert.Equal(
            text,
            Assert.Throws<ArgumentException>(new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(1, ["custom"])).WithFactory("custom", create).Build).Message);
    }

    private sealed class WideningMixer(long width) : SequenceMixer(nameof(WideningMixer), width)
    {
        public override MixerState CreateState(long batchSize) => new ScalingMixer.Counter(batchSize);

        public override Tensor forward(Tensor x, MixerContext context) => cat([x, x], -1);
    }
}
