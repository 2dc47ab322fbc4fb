using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

public class ResidualBlockTests
{
    // The token of the tests by hand: its mean square is 12.5.
    private static readonly double Root = Math.Sqrt(12.5);

    [Fact]
    public void PreNormAddsTheMixerOfTheNormalisedInput()
    {
        using var scope = NewDisposeScope();
        using var block = new ResidualBlock(new ScalingMixer(2, 5), new BlockOptions { NormEps = 1e-12 });
        var y = Values.Of(block.call(Token()));
        Assert.Equal(3 + (5 * 3 / Root), y[0], 1e-5);
        Assert.Equal(4 + (5 * 4 / Root), y[1], 1e-5);
    }

    [Fact]
    public void PostNormNormalisesTheSum()
    {
        using var scope = NewDisposeScope();
        using var block = new ResidualBlock(new ScalingMixer(2, -3), new BlockOptions { NormEps = 1e-12, PreNorm = false });

        // x - 3 x = -2 x, whose norm is that of x with the sign turned.
        var y = Values.Of(block.call(Token()));
        Assert.Equal(-3 / Root, y[0], 1e-6);
        Assert.Equal(-4 / Root, y[1], 1e-6);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TheFeedForwardFollowsWithItsOwnNorm(bool preNorm)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var feedForwardOptions = new FeedForwardOptions { IntermediateSize = 7 };
        using var block = new ResidualBlock(new ScalingMixer(5, 2), new BlockOptions { PreNorm = preNorm, FeedForward = feedForwardOptions });
        Assert.Equal(
            ["ffn.down_proj.weight", "ffn.gate_proj.weight", "ffn.up_proj.weight", "ffn_norm.weight", "norm.weight"],
            block.state_dict().Keys.Order(StringComparer.Ordinal));
        using var feedForward = new FeedForward(5, feedForwardOptions);
        feedForward.load_state_dict(block.state_dict().Where(entry => entry.Key.StartsWith("ffn.", StringComparison.Ordinal))
            .ToDictionary(entry => entry.Key[4..], entry => entry.Value));
        block.get_parameter("norm.weight")!.fill_(1.5);
        block.get_parameter("ffn_norm.weight")!.fill_(0.5);

        var x = Values.Normal(1, 2, 3, 5);
        var mixed = preNorm ? x + (2 * Norm(x, 1.5)) : Norm(x + (2 * x), 1.5);
        var expected = preNorm ? mixed + feedForward.call(Norm(mixed, 0.5)) : Norm(mixed + feedForward.call(mixed), 0.5);
        TensorAssert.Close(expected, block.call(x), 1e-6, preNorm ? "pre-norm" : "post-norm");

        static Tensor Norm(Tensor x, double weight) => x / (x.square().mean([-1], keepdim: true) + 1e-5).sqrt() * weight;
    }

    [Fact]
    public void DropoutActsOnTheBranchWhileTraining()
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        using var block = new ResidualBlock(new ScalingMixer(64, 1), new BlockOptions { DropoutRate = 0.25 });
        var x = Values.Normal(2, 1, 50, 64);
        block.eval();
        var branch = block.call(x) - x;
        block.train();
        var ratios = Values.Of((block.call(x) - x) / branch);

        // Kept elements are divided by 0.75; of 3200 a quarter is dropped, give or take 5 standard deviations (24.5 each).
        Assert.All(ratios, ratio => Assert.True(Math.Abs(ratio) < 1e-6 || Math.Abs(ratio - (4 / 3.0)) < 1e-2, $"ratio {ratio}"));
        Assert.InRange(ratios.Count(ratio => ratio < 0.5), 800 - 123, 800 + 123);
    }

    [Fact]
    public void WithoutAMixerItIsTheSecondBranchAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var block = new ResidualBlock(5, new BlockOptions { NormEps = 0.01, FeedForward = new() { IntermediateSize = 7 } });
        using var feedForward = new FeedForward(5, new() { IntermediateSize = 7 });
        using var norm = new RmsNorm(5, 0.01);
        Assert.Equal(
            ["ffn.down_proj.weight", "ffn.gate_proj.weight", "ffn.up_proj.weight", "ffn_norm.weight"],
            block.state_dict().Keys.Order(StringComparer.Ordinal));
        feedForward.load_state_dict(block.state_dict().Where(entry => entry.Key.StartsWith("ffn.", StringComparison.Ordinal))
            .ToDictionary(entry => entry.Key[4..], entry => entry.Value));
        var x = Values.Normal(1, 2, 3, 5);
        TensorAssert.Identical(x + feedForward.call(norm.call(x)), block.call(x), "x + ffn(norm x)");
        Assert.Null(block.Mixer);
        Assert.Same(block.get_parameter("ffn.down_proj.weight"), Assert.Single(block.ResidualOutputWeights));
        using var state = block.CreateState(2);
        Assert.Equal((0, true), (state.ByteSize, state.CanTrim));
        Assert.Contains(
            "needs FeedForward or MixtureOfExperts",
            Assert.Throws<ArgumentException>(() => new ResidualBlock(5, new BlockOptions())).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TheStateIsTheMixers()
    {
        using var mamba = new ResidualBlock(new MambaMixer(8));
        using var attention = new ResidualBlock(new MultiHeadAttention(16));
        using var first = mamba.CreateState(2);
        using var second = attention.CreateState(2);
        Assert.IsType<MambaState>(first);
        Assert.IsType<KeyValueState>(second);
        Assert.IsType<MambaMixer>(mamba.Mixer);
        Assert.Equal(8, mamba.Width);
    }

    [Fact]
    public void ResidualOutputWeightsAreTheMixersAndTheFeedForwards()
    {
        using var bare = new ResidualBlock(new MambaMixer(8));
        using var full = new ResidualBlock(new MambaMixer(8), new BlockOptions { FeedForward = new FeedForwardOptions() });
        Assert.Same(bare.get_parameter("mixer.out_proj.weight"), Assert.Single(bare.ResidualOutputWeights));
        Assert.Collection(
            full.ResidualOutputWeights,
            weight => Assert.Same(full.get_parameter("mixer.out_proj.weight"), weight),
            weight => Assert.Same(full.get_parameter("ffn.down_proj.weight"), weight));
    }

    [Fact]
    public void OptionsOutOfRangeAreNamed()
    {
        using var mixer = new ScalingMixer(4, 1);
        Expect("BlockOptions.NormEps must be positive; got 0.", new BlockOptions { NormEps = 0 });
        Expect("BlockOptions.DropoutRate must be 0 or more and below 1; got -0.1.", new BlockOptions { DropoutRate = -0.1 });
        Expect("FeedForwardOptions.IntermediateSize must be at least 1; got 0.", new BlockOptions { FeedForward = new() { IntermediateSize = 0 } });

        void Expect(string text, BlockOptions options) => Assert.StartsWith(
            text, Assert.Throws<ArgumentOutOfRangeException>(() => new ResidualBlock(mixer, options)).Message, StringComparison.Ordinal);
    }

    private static Tensor Token() => Values.Tensor32([3, 4], 1, 1, 2);
}
