using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Contracts;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class SharedWeightsContractTests : MixerContractTests
{
    public override string RegistryName => "hybrid_attention";

    protected override SequenceMixer Create() => MixerRegistry.Create(
        RegistryName,
        12,
        new HybridAttentionOptions
        {
            Weights = BranchWeights.Shared, MambaThreshold = 7, ResidualBranches = false, SharedConfig = new() { HeadDim = 6, DState = 4 },
        });
}

public class SharedWeightsTests
{
    private static readonly TransPointOptions Small = new() { HeadDim = 4, DState = 4 };

    [Fact]
    public void TheThresholdIsTheTransPoint()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var options = new HybridAttentionOptions { Weights = BranchWeights.Shared, MambaThreshold = 7, SharedConfig = Small, DropoutRate = 0 };
        using var standing = Assert.IsType<ResidualBlock>(MixerRegistry.Create("hybrid_attention", 8, options));
        Assert.Equal(7, Assert.IsType<TransPointMixer>(standing.Mixer).TransPoint);
        using var bare = Assert.IsType<TransPointMixer>(MixerRegistry.Create("hybrid_attention", 8, options with { ResidualBranches = false }));
        using var alone = new TransPointMixer(8, Small with { TransPoint = 7 });
        alone.load_state_dict(bare.state_dict());
        var x = Values.Normal(1, 2, 20, 8);
        TensorAssert.Identical(alone.call(x), bare.call(x), "y");
    }

    [Fact]
    public void PointsOfTheConfigReplaceTheThreshold()
    {
        var options = new HybridAttentionOptions { Weights = BranchWeights.Shared, ResidualBranches = false, SharedConfig = Small with { TransPoint = 0 } };
        using var mixer = Assert.IsType<TransPointMixer>(MixerRegistry.Create("hybrid_attention", 8, options));
        Assert.Equal(0, mixer.TransPoint);
    }

    public static TheoryData<string, HybridAttentionOptions> OptionsWithoutEffect => new()
    {
        { "with shared weights the position of a token decides", new() { Weights = BranchWeights.Shared, AttentionConfig = new() { NumHeads = 2 } } },
        { "with shared weights the position of a token decides", new() { Weights = BranchWeights.Shared, MambaConfig = new() { DState = 2 } } },
        { "with shared weights the position of a token decides", new() { Weights = BranchWeights.Shared, TransformerMaxLength = 99 } },
        {
            "with shared weights the position of a token decides",
            new() { Weights = BranchWeights.Shared, MambaThreshold = 9, SharedConfig = Small with { TransPoint = 4 } }
        },
        { "SharedConfig is of shared weights", new() { SharedConfig = Small } },
    };

    [Theory]
    [MemberData(nameof(OptionsWithoutEffect))]
    public void OptionsWithoutEffectAreRefused(string text, HybridAttentionOptions options) => Assert.StartsWith(
        "HybridAttentionOptions: " + text,
        Assert.Throws<ArgumentException>(() => MixerRegistry.Create("hybrid_attention", 8, options)).Message,
        StringComparison.Ordinal);

    [Fact]
    public void ARouterHasTwoBranches() => Assert.StartsWith(
        "HybridAttention: shared weights leave nothing to route",
        Assert.Throws<ArgumentException>(
            () => new HybridAttention(8, new HybridAttentionOptions { Weights = BranchWeights.Shared, SharedConfig = Small })).Message,
        StringComparison.Ordinal);

    [Fact]
    public void TomlAndTheBuilderStaggerTheLayers()
    {
        var config = HybridConfig.Parse(
            """
            [model]
            hidden_size = 16
            num_layers = 3
            layers = ["hybrid_attention"]
            [model.hybrid_attention]
            weights = "shared"
            [model.hybrid_attention.shared_config]
            trans_points = [3, 0]
            head_dim = 8
            d_state = 4
            """);
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
        using var model = new CausalLanguageModel(config.Model!);
        Assert.Equal([3, 0, 3], PointsOf(model.Backbone));
        Assert.Empty(model.Routers);

        var builder = new BackboneBuilder(16).WithPattern(LayerPattern.Cycle(3, ["hybrid_attention"])).WithStaggeredTransPoints([5, 6]);
        Assert.Contains("TransPoints are given, but no layer has one", Assert.Throws<ArgumentException>(builder.Build).Message, StringComparison.Ordinal);
        using var backbone = builder.WithMixer("hybrid_attention", new HybridAttentionOptions { Weights = BranchWeights.Shared, SharedConfig = Small }).Build();
        Assert.Equal([5, 6, 5], PointsOf(backbone));
    }

    private static IEnumerable<long> PointsOf(HybridBackbone backbone) =>
        backbone.Blocks.Select(block => Assert.IsType<TransPointMixer>(block.Mixer).TransPoint);
}
