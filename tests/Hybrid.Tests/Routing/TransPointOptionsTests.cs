using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Xunit;

namespace Hybrid.Tests.Routing;

public class TransPointOptionsTests
{
    public static TheoryData<string, TransPointOptions> BadOptions => new()
    {
        { ".TransPoint must be at least 0; got -1.", new TransPointOptions { TransPoint = -1 } },
        { ": TransPoints must be one or more points of at least 0; got [].", new TransPointOptions { TransPoints = [] } },
        { ": TransPoints must be one or more points of at least 0; got [0, -5].", new TransPointOptions { TransPoints = [0, -5] } },
        { ": state TransPoint or TransPoints, not both; got 4 and [1, 2].", new TransPointOptions { TransPoint = 4, TransPoints = [1, 2] } },
        { ": TransPoints are for the layers of a backbone; a mixer of its own takes one TransPoint.", new TransPointOptions { TransPoints = [1, 2] } },
        { ".DState must be at least 1; got 0.", new TransPointOptions { DState = 0 } },
        { ".DConv must be at least 1; got 0.", new TransPointOptions { DConv = 0 } },
        { ".ExpandFactor must be at least 1; got 0.", new TransPointOptions { ExpandFactor = 0 } },
        { ".HeadDim must be at least 1; got 0.", new TransPointOptions { HeadDim = 0 } },
        { ".NGroups must be at least 1; got 0.", new TransPointOptions { NGroups = 0 } },
        { ".RopeTheta must be positive; got 0.", new TransPointOptions { RopeTheta = 0 } },
        { ".AttentionChunkSize must be at least 1; got 0.", new TransPointOptions { AttentionChunkSize = 0 } },
        { ".ChunkSize must be at least 1; got 0.", new TransPointOptions { ChunkSize = 0 } },
        { ".DtMin must be positive; got NaN.", new TransPointOptions { DtMin = double.NaN } },
        { ".DtMax must be at least 0.001; got 0.0001.", new TransPointOptions { DtMax = 1e-4 } },
        { ".DtInitFloor must be positive; got 0.", new TransPointOptions { DtInitFloor = 0 } },
        { ".NormEps must be positive; got 0.", new TransPointOptions { NormEps = 0 } },
        { ": HeadDim must divide the inner width, 64; got 24.", new TransPointOptions { HeadDim = 24 } },
        { ": NGroups must divide the number of heads, 4; got 3.", new TransPointOptions { HeadDim = 16, NGroups = 3 } },
        { ": DState must be even with rotary positions; got 7.", new TransPointOptions { DState = 7 } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void BadOptionsAreNamed(string text, TransPointOptions options)
    {
        var error = Assert.ThrowsAny<ArgumentException>(() => new TransPointMixer(32, options));
        Assert.StartsWith("TransPointOptions" + text, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TheDefaultPointIs512()
    {
        using var mixer = new TransPointMixer(32);
        Assert.Equal(512, mixer.TransPoint);
        Assert.Equal([0, 128, 256, 512, 1024, 2048, 4096, 8192], TransPointOptions.StaggeredTransPoints);
    }

    [Fact]
    public void ParametersAreThoseOfMamba2()
    {
        using var mixer = new TransPointMixer(32, new TransPointOptions { DState = 8, NGroups = 1 });
        using var mamba = new Mamba2Mixer(32, new Mamba2Options { DState = 8 });
        Assert.Equal(
            mamba.named_parameters().Select(entry => (entry.name, string.Join(',', entry.parameter.shape))),
            mixer.named_parameters().Select(entry => (entry.name, string.Join(',', entry.parameter.shape))));
        Assert.Equal(3, mixer.ParametersWithoutWeightDecay.Count());
        Assert.Same(mixer.get_parameter("out_proj.weight"), Assert.Single(mixer.ResidualOutputWeights));
    }

    [Fact]
    public void TomlKeysReachTheOptions()
    {
        var model = HybridConfig.Parse(
            """
            [model]
            hidden_size = 48
            backbone = "trans_point"
            [model.trans_point]
            trans_point = 77
            d_state = 32
            d_conv = 3
            expand_factor = 3
            head_dim = 12
            n_groups = 4
            use_rope = false
            rope_theta = 500
            attention_mode = "chunked"
            attention_chunk_size = 16
            chunk_size = 128
            dt_min = 0.002
            dt_max = 0.2
            dt_init_floor = 0.001
            use_conv_bias = false
            use_bias = true
            norm_eps = 1e-6
            """).Model!;
        var expected = new TransPointOptions
        {
            TransPoint = 77, DState = 32, DConv = 3, ExpandFactor = 3, HeadDim = 12, NGroups = 4, UseRope = false, RopeTheta = 500,
            AttentionMode = AttentionMode.Chunked, AttentionChunkSize = 16, ChunkSize = 128, DtMin = 0.002, DtMax = 0.2, DtInitFloor = 0.001,
            UseConvBias = false, UseBias = true, NormEps = 1e-6,
        };
        Assert.Equal(expected, model.Mixers["trans_point"]);
        ExpectTomlError("trans_points = [0, -1]", "expected one or more points of at least 0; found [0, -1]");
        ExpectTomlError("trans_point = -3", "expected at least 0; found -3");
        ExpectTomlError("trans_point = 3\ntrans_points = [1]", "state trans_point or trans_points, not both");

        static void ExpectTomlError(string keys, string text) => Assert.Contains(
            text,
            Assert.Throws<HybridConfigException>(
                () => HybridConfig.Parse($"[model]\nbackbone = \"trans_point\"\n[model.trans_point]\n{keys}")).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void PointsFromTomlAreStaggeredOverTheLayersThatHaveTheMixer()
    {
        var config = HybridConfig.Parse(
            """
            [model]
            hidden_size = 16
            num_layers = 7
            layers = ["trans_point", "trans_point", "mamba"]
            [model.trans_point]
            trans_points = [0, 8, 32]
            head_dim = 8
            d_state = 4
            """);
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
        using var model = new CausalLanguageModel(config.Model!);
        Assert.Equal([0, 8, 32, 0, 8], PointsOf(model.Backbone));
    }

    [Fact]
    public void TheBuilderStaggersWhenAsked()
    {
        var small = new TransPointOptions { HeadDim = 8, DState = 4, NGroups = 1 };
        var builder = new BackboneBuilder(16).WithPattern(LayerPattern.Cycle(9, ["trans_point"])).WithMixer("trans_point", small);
        using (var alike = builder.Build())
        {
            Assert.Equal(Enumerable.Repeat(512L, 9), PointsOf(alike));
        }

        using (var staggered = builder.WithStaggeredTransPoints().Build())
        {
            Assert.Equal([0, 128, 256, 512, 1024, 2048, 4096, 8192, 0], PointsOf(staggered));
        }

        using (var own = builder.WithStaggeredTransPoints([5, 6]).Build())
        {
            Assert.Equal([5, 6, 5, 6, 5, 6, 5, 6, 5], PointsOf(own));
        }

        Expect("BackboneBuilder: TransPoints are given, but no layer has one; the layers are mamba, mamba, attention", new BackboneBuilder(8).WithStaggeredTransPoints());
        Expect(
            "BackboneBuilder: layer 0 ('trans_point') cannot be built: TransPointOptions: state TransPoint or TransPoints, not both; got 3 and [1, 2].",
            builder.WithMixer("trans_point", small with { TransPoint = 3 }).WithStaggeredTransPoints([1, 2]));

        static void Expect(string text, BackboneBuilder builder) =>
            Assert.StartsWith(text, Assert.ThrowsAny<ArgumentException>(builder.Build).Message, StringComparison.Ordinal);
    }

    private static IEnumerable<long> PointsOf(HybridBackbone backbone) =>
        backbone.Blocks.Select(block => block.Mixer).OfType<TransPointMixer>().Select(mixer => mixer.TransPoint);
}
