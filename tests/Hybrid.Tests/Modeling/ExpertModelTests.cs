using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Layers;
using Hybrid.Modeling;
using Hybrid.Tests.Backbone;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using Hybrid.Training;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

/// <summary>Experts in blocks, backbones, language models and configurations.</summary>
public class ExpertModelTests
{
    private static readonly MixtureOfExpertsOptions Experts = new()
    {
        NumExperts = 5, TopK = 2, IntermediateSize = 6, SharedExpertIntermediateSize = 4, ExpertEvery = 2, ExpertOffset = 1,
    };

    [Theory]
    [InlineData(2, 1, new[] { 1, 3 })]
    [InlineData(3, 0, new[] { 0, 3 })]
    [InlineData(1, 0, new[] { 0, 1, 2, 3 })]
    public void LayersHaveExpertsOrTheFeedForwardLayer(int every, int offset, int[] expected)
    {
        using var backbone = new BackboneBuilder(8)
            .WithPattern(LayerPattern.Cycle(4, ["mamba"]))
            .WithBlocks(new BlockOptions { FeedForward = every == 1 ? null : new() { IntermediateSize = 7 } })
            .WithExperts(Experts with { ExpertEvery = every, ExpertOffset = offset })
            .Build();
        for (var i = 0; i < 4; i++)
        {
            var hasExperts = expected.Contains(i);
            Assert.Equal(hasExperts, backbone.Blocks[i].Experts is not null);
            Assert.Equal(hasExperts, backbone.get_parameter($"layers.{i}.ffn.router.weight") is not null);
            Assert.Equal(!hasExperts, backbone.get_parameter($"layers.{i}.ffn.up_proj.weight") is not null);
        }
    }

    [Fact]
    public void ABlockAddsItsExpertsToTheResidualStream()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var block = new ResidualBlock(new ScalingMixer(8, 2), new BlockOptions { NormEps = 0.01, MixtureOfExperts = Experts });
        using var norm = new RmsNorm(8, 0.01);
        var x = Values.Normal(3, 2, 5, 8);
        var mixed = x + (2 * norm.call(x));
        TensorAssert.Close(mixed + block.Experts!.call(norm.call(mixed)), block.call(x), 1e-6, "block");
        Assert.Equal(
            ["ffn.experts.down_proj", "ffn.shared_expert.down_proj.weight"],
            block.named_parameters().Where(entry => block.ResidualOutputWeights.Any(weight => ReferenceEquals(weight, entry.parameter))).Select(entry => entry.name));
    }

    [Theory]
    [InlineData(PaddingSide.Right)]
    [InlineData(PaddingSide.Left)]
    public void PaddingDoesNotReachRealTokens(PaddingSide side)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = Make();
        var ids = SmallModel.Tokens(2, 9);
        var padded = model.forward(ids, new MixerContext { Lengths = [9, 5], PaddingSide = side });
        var start = side == PaddingSide.Right ? 0 : 4;
        TensorAssert.Close(model.call(ids[1].narrow(0, start, 5).unsqueeze(0))[0], padded[1].narrow(0, start, 5), 1e-5, "short row");
        TensorAssert.Close(model.call(ids[0].unsqueeze(0))[0], padded[0], 1e-5, "full row");
    }

    [Fact]
    public void SingleStepsEqualTheWholeSequence()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = Make();
        var ids = SmallModel.Tokens(2, 9);
        using var state = model.CreateState(2);
        var steps = ids.split(1, 1).Select(step => model.forward(step, new MixerContext { State = state })).ToArray();
        TensorAssert.Close(model.call(ids), cat(steps, 1), 1e-5, "logits");
    }

    [Theory]
    [InlineData(0.5)]
    [InlineData(0)]
    public void TrainingAddsTheMeanLoadBalanceLoss(double coefficient)
    {
        using var scope = NewDisposeScope();
        using var model = Make(coefficient);
        using (no_grad())
        {
            // An even router has the loss k = 2 in each of the two layers.
            model.get_parameter("backbone.layers.1.ffn.router.weight")!.zero_();
            model.get_parameter("backbone.layers.3.ffn.router.weight")!.zero_();
        }

        var (ids, targets) = (SmallModel.Tokens(2, 7), SmallModel.Tokens(2, 7, seed: 2));
        var plain = model.Loss(ids, targets).ToDouble();
        model.train();
        Assert.Equal(plain + (2 * coefficient), model.Loss(ids, targets).ToDouble(), 1e-5);
    }

    [Theory]
    [InlineData(0.5)]
    [InlineData(0)]
    public void ABackbonePutsItsBalanceLossesInTheContext(double coefficient)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(4, ["mamba"]))
            .WithExperts(Experts with { RouterAuxLossCoefficient = coefficient }).Build();
        foreach (var layer in new[] { 1, 3 })
        {
            backbone.get_parameter($"layers.{layer}.ffn.router.weight")!.zero_();
        }

        // An even router has the loss k = 2, and the mean is over two layers.
        var losses = new List<Tensor>();
        backbone.forward(Values.Normal(1, 2, 5, 8), new MixerContext { AuxiliaryLosses = losses });
        Assert.Equal(coefficient > 0 ? 2 : 0, losses.Count);
        Assert.All(losses, loss => Assert.Equal(coefficient, loss.ToDouble(), 1e-6));
        losses.ForEach(loss => loss.Dispose());
    }

    [Fact]
    public void TheLossLeavesNoTensorBehind()
    {
        using var guard = no_grad();
        using var model = Make();
        model.train();
        using var ids = SmallModel.Tokens(2, 7);
        var before = LiveTensors.Before();
        using var loss = model.Loss(ids, ids);
        Assert.Equal(before + 1, Tensor.TotalCount);
    }

    [Fact]
    public void AModelWithExpertsLearns()
    {
        manual_seed(3);
        var training = new TrainingOptions { Steps = 20, BatchSize = 4, SequenceLength = 16, LearningRate = 0.01, WarmupSteps = 2 };
        using var model = new CausalLanguageModel(Options(0.01) with { VocabSize = 256 });
        var text = new ByteTokenizer().Encode(string.Concat(Enumerable.Repeat("A stitch in time saves nine. ", 30)));
        using var trainer = new LanguageModelTrainer(model, new TokenCorpus(text, 0.2), training);
        var losses = Enumerable.Range(0, training.Steps).Select(trainer.TrainStep).ToArray();
        Assert.True(losses[15..].Average() < 0.7 * losses[..5].Average(), string.Join(", ", losses));
        Assert.All(
            model.named_parameters().Where(entry => entry.name.Contains("ffn", StringComparison.Ordinal)),
            entry => Assert.True(entry.parameter.grad is { } gradient && gradient.abs().max().ToDouble() > 0, $"{entry.name} has no gradient"));
    }

    [Fact]
    public void ResidualOutputsOfExpertsAreScaledDown()
    {
        using var scope = NewDisposeScope();
        using var model = Make();
        var down = Values.Of(model.get_parameter("backbone.layers.1.ffn.experts.down_proj")!);

        // Uniform up to 1 / sqrt(6), in a stack of four layers with two branches each.
        var bound = 1 / Math.Sqrt(6) / Math.Sqrt(8);
        Assert.InRange(down.Max(), 0.97 * bound, bound);
    }

    [Fact]
    public void ATableStatesTheExperts()
    {
        const string text = """
            [model]
            num_layers = 4
            hidden_size = 16
            feed_forward = { intermediate_size = 8 }
            [model.mixture_of_experts]
            num_experts = 5
            top_k = 2
            intermediate_size = 6
            weighting = "softmax_topk_renormalised"
            shared_expert_intermediate_size = 4
            expert_every = 2
            expert_offset = 1
            router_aux_loss_coefficient = 0.01
            """;
        var config = HybridConfig.Parse(text);
        var expected = Experts with { Weighting = ExpertWeighting.SoftmaxTopkRenormalised, RouterAuxLossCoefficient = 0.01 };
        Assert.Equal(expected, config.Model!.MixtureOfExperts);
        Assert.Equal(expected, HybridConfig.Parse(config.ToToml()).Model!.MixtureOfExperts);
    }

    [Fact]
    public void ErrorsOfTheTableNameTheKey()
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse("[model.mixture_of_experts]\nnum_experts = 4\ntop_k = 5"));
        Assert.Equal("configuration(3,1): [model.mixture_of_experts] top_k: expected 1..4; found 5", error.Message);
    }

    [Fact]
    public void ExpertsThatNoBlockCouldHaveAreRefused()
    {
        using var mixer = new ScalingMixer(4, 1);
        Expect(
            "BlockOptions: a block has FeedForward or MixtureOfExperts, not both.",
            () => new ResidualBlock(mixer, new BlockOptions { FeedForward = new(), MixtureOfExperts = new() }));
        Expect(
            "BackboneBuilder: options are given for experts, but none of the 2 layers has them; the first would be layer 2.",
            () => new BackboneBuilder(8).WithPattern(LayerPattern.Cycle(2, ["mamba"])).WithExperts(new() { ExpertEvery = 3, ExpertOffset = 2 }).Build());

        static void Expect(string text, Func<object> action) => Assert.Equal(text, Assert.Throws<ArgumentException>(action).Message);
    }

    private static CausalLanguageModel Make(double coefficient = 0.5)
    {
        manual_seed(3);
        var model = new CausalLanguageModel(Options(coefficient));
        model.eval();
        return model;
    }

    private static LanguageModelOptions Options(double coefficient) => SmallModel.Options() with
    {
        NumLayers = 4, Layers = ["mamba", "attention"], MixtureOfExperts = Experts with { RouterAuxLossCoefficient = coefficient },
        Mixers = new Dictionary<string, object> { ["attention"] = new Hybrid.Attention.AttentionOptions { NumHeads = 4 } },
    };
}
