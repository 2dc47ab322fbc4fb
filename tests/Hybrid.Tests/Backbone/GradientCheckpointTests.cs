using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using Hybrid.Tests.Modeling;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

public class GradientCheckpointTests
{
    private const long Width = 12;

    [Theory]
    [InlineData("mamba")]
    [InlineData("attention")]
    [InlineData("mamba2")]
    [InlineData("gated_delta_net")]
    [InlineData("griffin_lru")]
    [InlineData("rwkv")]
    [InlineData("gru")]
    [InlineData("parallel")]
    [InlineData("mlp")]
    public void GradientsAreThoseOfTheBlockBitForBit(string mixer)
    {
        using var scope = NewDisposeScope();
        using var plain = Backbone(mixer, new BlockOptions());
        using var checkpointed = Backbone(mixer, new BlockOptions { UseGradientCheckpointing = true });
        AssertSameGradients(plain, checkpointed, MixerContext.None);
        AssertSameGradients(plain, checkpointed, new MixerContext { Lengths = [17, 5, 1] });
        AssertSameGradients(plain, checkpointed, new MixerContext { Lengths = [17, 5, 1], PaddingSide = PaddingSide.Left });
    }

    /// <summary>
    /// Through a stack that runs twice, so that its parameters have also made its second input. Attention is left out, as libtorch has no
    /// second derivative of its fused form.
    /// </summary>
    [Theory]
    [InlineData("mamba")]
    [InlineData("mamba2")]
    [InlineData("gated_ssm")]
    public void SecondDerivativesAreThoseOfTheBlock(string mixer)
    {
        using var scope = NewDisposeScope();
        using var plain = Backbone(mixer, new BlockOptions());
        using var checkpointed = Backbone(mixer, new BlockOptions { UseGradientCheckpointing = true });
        checkpointed.load_state_dict(plain.state_dict());
        foreach (var (name, expected) in Second(plain))
        {
            // The order in which float32 contributions are added differs.
            TensorAssert.Close(expected, Second(checkpointed)[name], 2e-5, name);
        }

        static Dictionary<string, Tensor> Second(HybridBackbone backbone)
        {
            backbone.zero_grad();
            var x = Values.Normal(3, 2, 9, Width).requires_grad_(true);
            var leaves = backbone.named_parameters().ToDictionary(entry => entry.name, entry => (Tensor)entry.parameter);
            leaves["x"] = x;
            var loss = backbone.forward(backbone.forward(x)).sin().sum();
            var gradients = autograd.grad([loss], [.. leaves.Values], retain_graph: true, create_graph: true, allow_unused: true);
            gradients.Where(gradient => gradient is { IsInvalid: false }).Select(gradient => gradient.square().sum()).Aggregate((a, b) => a + b).backward();
            return leaves.Where(leaf => leaf.Value.grad is not null).ToDictionary(leaf => leaf.Key, leaf => leaf.Value.grad!.clone());
        }
    }

    [Fact]
    public void DropoutDrawsTheSameNumbersTwice_AndLeavesTheGeneratorAsItWouldBe()
    {
        using var scope = NewDisposeScope();
        var attention = new AttentionOptions { NumHeads = 3, DropoutRate = 0.3 };
        using var plain = Backbone("attention", new BlockOptions { DropoutRate = 0.4 }, attention);
        using var checkpointed = Backbone("attention", new BlockOptions { DropoutRate = 0.4, UseGradientCheckpointing = true }, attention);
        AssertSameGradients(plain, checkpointed, MixerContext.None);
        manual_seed(5);
        var (first, afterPlain) = (Gradients(plain, MixerContext.None), randn(3));
        manual_seed(5);
        var (second, afterCheckpointed) = (Gradients(checkpointed, MixerContext.None), randn(3));
        manual_seed(6);
        var other = Gradients(plain, MixerContext.None);
        TensorAssert.Identical(afterPlain, afterCheckpointed, "random numbers after the backward pass");
        TensorAssert.Identical(first["x"], second["x"], "the same seed");
        Assert.True(TensorAssert.RelativeError(first["x"], other["x"]) > 1e-2, "the seed must matter, or the test says nothing");
    }

    [Fact]
    public void PackedRowsMayBeFreedBeforeTheBackwardPass()
    {
        using var scope = NewDisposeScope();
        using var plain = Backbone("mamba", new BlockOptions());
        using var checkpointed = Backbone("mamba", new BlockOptions { UseGradientCheckpointing = true });
        AssertSame(Run(plain), Run(checkpointed));

        static Dictionary<string, Tensor> Run(HybridBackbone backbone)
        {
            var ids = tensor(new long[] { 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2 }).unsqueeze(0).repeat(3, 1);
            return Gradients(backbone, new MixerContext { SequenceIds = ids }, afterForward: ids.Dispose);
        }
    }

    [Fact]
    public void TheModeOfTheForwardPassHoldsInTheBackwardPass()
    {
        using var scope = NewDisposeScope();
        using var plain = Backbone("mamba", new BlockOptions { DropoutRate = 0.4 });
        using var checkpointed = Backbone("mamba", new BlockOptions { DropoutRate = 0.4, UseGradientCheckpointing = true });
        manual_seed(5);
        var expected = Gradients(plain, MixerContext.None);
        manual_seed(5);
        AssertSame(expected, Gradients(checkpointed, MixerContext.None, afterForward: () => checkpointed.eval()));
        Assert.All(checkpointed.Blocks, block => Assert.False(block.training));
    }

    [Fact]
    public void FrozenParametersAndInputsGetNoGradient()
    {
        using var scope = NewDisposeScope();
        using var backbone = Backbone("mamba", new BlockOptions { UseGradientCheckpointing = true });
        var frozen = backbone.get_parameter("layers.0.mixer.in_proj.weight")!;
        frozen.requires_grad_(false);
        backbone.call(Values.Normal(1, 2, 5, Width)).sum().backward();
        Assert.Null(frozen.grad);
        Assert.All(
            backbone.named_parameters().Where(entry => !ReferenceEquals(entry.parameter, frozen)),
            entry => Assert.False(entry.parameter.grad is null, $"{entry.name} has no gradient"));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void ALanguageModelWithExpertsHasTheSameLossAndGradients(bool training)
    {
        using var scope = NewDisposeScope();
        var options = SmallModel.Options() with
        {
            NumLayers = 4, Layers = ["mamba", "attention"], DropoutRate = 0.2,
            MixtureOfExperts = new() { NumExperts = 3, TopK = 2, IntermediateSize = 6, ExpertEvery = 2, RouterAuxLossCoefficient = 0.5 },
            Mixers = new Dictionary<string, object> { ["attention"] = new AttentionOptions { NumHeads = 4 } },
        };
        using var plain = Model(options);
        using var checkpointed = Model(options with { UseGradientCheckpointing = true });
        Assert.Equal(Step(plain), Step(checkpointed));
        foreach (var (name, parameter) in plain.named_parameters())
        {
            TensorAssert.Identical(parameter.grad!, checkpointed.get_parameter(name)!.grad!, name);
        }

        CausalLanguageModel Model(LanguageModelOptions options)
        {
            var model = SmallModel.Create(options);
            model.train(training);
            return model;
        }

        static double Step(CausalLanguageModel model)
        {
            manual_seed(9);
            var loss = model.Loss(SmallModel.Tokens(2, 9), SmallModel.Tokens(2, 9, seed: 2));
            loss.backward();
            return loss.ToDouble();
        }
    }

    /// <summary>Those of a mixer and those of the experts behind it, each once, though the block is computed twice.</summary>
    [Fact]
    public void AuxiliaryLossesAndTheirGradientsAreThoseOfTheBlock()
    {
        using var scope = NewDisposeScope();
        var options = new BlockOptions { MixtureOfExperts = new() { NumExperts = 3, TopK = 2, IntermediateSize = 6, RouterAuxLossCoefficient = 0.5 } };
        using var plain = new ResidualBlock(new EnergyMixer(Width), options);
        using var checkpointed = new ResidualBlock(new EnergyMixer(Width), options with { UseGradientCheckpointing = true });
        checkpointed.load_state_dict(plain.state_dict());
        var (expected, actual) = (Run(plain), Run(checkpointed));
        Assert.Equal(3, expected.Losses.Length);
        Assert.Equal(expected.Losses, actual.Losses);
        TensorAssert.Identical(expected.Gradient, actual.Gradient, "x");
        foreach (var (name, parameter) in plain.named_parameters())
        {
            TensorAssert.Identical(parameter.grad!, checkpointed.get_parameter(name)!.grad!, name);
        }

        static (double[] Losses, Tensor Gradient) Run(ResidualBlock block)
        {
            var x = Values.Normal(1, 2, 5, Width).requires_grad_(true);
            var losses = new List<Tensor>();
            var y = block.forward(x, new MixerContext { AuxiliaryLosses = losses });
            losses.Aggregate(y.sum(), (sum, loss) => sum + loss).backward();
            var values = losses.Select(loss => loss.ToDouble()).ToArray();
            losses.ForEach(loss => loss.Dispose());
            return (values, x.grad!);
        }
    }

    [Fact]
    public void LessMemoryIsHeldBetweenForwardAndBackward()
    {
        ResidentMemory.SkipUnlessMeasured();
        using var kernels = new KernelChoice(referenceOnly: true);
        var blocks = new BlockOptions { FeedForward = new() { IntermediateSize = 256 } };
        var checkpointed = HeldBytes(blocks with { UseGradientCheckpointing = true });
        var plain = HeldBytes(blocks);
        var found = $"{checkpointed / 1e6:f0} MB are held with checkpoints, {plain / 1e6:f0} MB without";
        TestContext.Current.TestOutputHelper?.WriteLine(found);

        // Four blocks that keep their input alone, where the norm in each, made of tensor operations, keeps one activation more.
        Assert.True(plain - checkpointed > 3 * 4L * 4160 * 512 * sizeof(float), found);

        static long HeldBytes(BlockOptions blocks)
        {
            using var backbone = new BackboneBuilder(512).WithPattern(LayerPattern.Cycle(4, ["custom"]))
                .WithFactory("custom", width => new ScalingMixer(width, 0.5)).WithBlocks(blocks).Build();
            using var x = ones(4, 1040, 512);
            var before = ResidentMemory.Held();
            using var y = backbone.call(x);
            var held = ResidentMemory.Held() - before;
            using var loss = y.sum();
            loss.backward();
            return held;
        }
    }

    [Fact]
    public void NoTensorIsLeftBehind()
    {
        using var backbone = Backbone("mamba", new BlockOptions { UseGradientCheckpointing = true, FeedForward = new() });
        using var x = Values.Normal(1, 2, 5, Width);
        Step();
        var before = LiveTensors.Before();
        for (var step = 0; step < 20; step++)
        {
            Step();
        }

        Assert.Equal(before, LiveTensors.Before());

        void Step()
        {
            using var scope = NewDisposeScope();
            backbone.call(x).sum().backward();
        }
    }

    [Fact]
    public void UnderNoGradItCarriesAState_WhileRecordingItRefusesOne()
    {
        using var scope = NewDisposeScope();
        using var backbone = Backbone("mamba", new BlockOptions { UseGradientCheckpointing = true });
        var x = Values.Normal(1, 3, 7, Width);
        using var state = backbone.CreateState(3);
        var error = Assert.Throws<NotSupportedException>(() => backbone.forward(x, new MixerContext { State = state }));
        Assert.Contains("run under no_grad, or turn it off", error.Message, StringComparison.Ordinal);
        Assert.All(state.Parts, part => Assert.Equal(0, part.Position));
        using var guard = no_grad();
        var pieces = new[] { x.narrow(1, 0, 3), x.narrow(1, 3, 4) }.Select(piece => backbone.forward(piece, new MixerContext { State = state }));
        TensorAssert.Close(backbone.call(x), cat([.. pieces], 1), 1e-5, "in pieces");
    }

    [Fact]
    public void ErrorsOfTheBlockAreThoseWithoutCheckpoints()
    {
        using var scope = NewDisposeScope();
        using var block = new ResidualBlock(new MambaMixer(8), new BlockOptions { UseGradientCheckpointing = true, PreNorm = false });
        Assert.StartsWith(
            "MambaMixer: x must be [B, T, 8]", Assert.Throws<ArgumentException>(() => block.call(zeros(2, 5, 9))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LayersThatChooseAndCountAreRefused()
    {
        foreach (var mixer in new SequenceMixer[] { new HybridAttention(16), new ParallelHybrid(16) })
        {
            var error = Assert.Throws<ArgumentException>(() => new ResidualBlock(mixer, new BlockOptions { UseGradientCheckpointing = true }));
            Assert.Contains("would count twice", error.Message, StringComparison.Ordinal);
        }
    }

    /// <summary>The input doubled, which asks for its mean square and its mean in the loss.</summary>
    private sealed class EnergyMixer(long width) : SequenceMixer(nameof(EnergyMixer), width)
    {
        public override MixerState CreateState(long batchSize) => throw new NotSupportedException();

        public override Tensor forward(Tensor x, MixerContext context)
        {
            context.AuxiliaryLosses?.Add((x * x).mean().DetachFromDisposeScope());
            context.AuxiliaryLosses?.Add(x.mean().DetachFromDisposeScope());
            return x * 2;
        }
    }

    private static HybridBackbone Backbone(string mixer, BlockOptions blocks, object? options = null)
    {
        manual_seed(3);
        var builder = new BackboneBuilder(Width).WithPattern(LayerPattern.Cycle(2, [mixer])).WithBlocks(blocks with { FeedForward = new() });
        options ??= mixer switch
        {
            "attention" => new AttentionOptions { NumHeads = 3 },
            "parallel" => new ParallelMixerOptions { AttentionConfig = new() { NumHeads = 3 } },
            "mamba2" => new Mamba2Options { DState = 8, HeadDim = 6 },
            "griffin_lru" => new GriffinOptions { NumHeads = 2 },
            _ => null,
        };
        return (options is null ? builder : builder.WithMixer(mixer, options)).Build();
    }

    private static void AssertSameGradients(HybridBackbone plain, HybridBackbone checkpointed, MixerContext context)
    {
        manual_seed(5);
        var expected = Gradients(plain, context);
        manual_seed(5);
        AssertSame(expected, Gradients(checkpointed, context));
    }

    private static void AssertSame(Dictionary<string, Tensor> expected, Dictionary<string, Tensor> actual)
    {
        Assert.Equal(expected.Keys.Order(), actual.Keys.Order());
        Assert.All(expected, entry => TensorAssert.Identical(entry.Value, actual[entry.Key], entry.Key));
    }

    /// <summary>Output and gradients of a fixed projection of it.</summary>
    private static Dictionary<string, Tensor> Gradients(HybridBackbone backbone, MixerContext context, Action? afterForward = null)
    {
        backbone.zero_grad();
        var x = Values.Normal(1, 3, 17, Width).requires_grad_(true);
        var y = backbone.forward(x, context);
        afterForward?.Invoke();
        (y * Values.Normal(2, 3, 17, Width)).sum().backward();
        var results = backbone.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter.grad!.clone());
        results["x"] = x.grad!;
        results["y"] = y.detach();
        return results;
    }
}
