using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

public class HybridBackboneTests
{
    private const long Width = 8;

    [Fact]
    public void IsItsBlocksInTurnAndAFinalNorm()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Builder().WithBlocks(new BlockOptions { NormEps = 0.01, FeedForward = new() { IntermediateSize = 12 } }).Build();
        backbone.get_parameter("norm_f.weight")!.fill_(3);
        var x = Values.Normal(1, 2, 9, Width);
        var expected = Norm(backbone.Blocks.Aggregate(x, (hidden, block) => block.call(hidden)));
        TensorAssert.Close(expected, backbone.call(x), 1e-6, "three layers");

        static Tensor Norm(Tensor x) => 3 * x / (x.square().mean([-1], keepdim: true) + 0.01).sqrt();
    }

    [Fact]
    public void ACallThatOneLayerRefusesAdvancesNone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = new BackboneBuilder(Width).WithPattern(LayerPattern.Cycle(2, ["mamba", "attention"]))
            .WithMixer("attention", new AttentionOptions { NumHeads = 2, MaxLength = 4 }).Build();
        using var state = backbone.CreateState(1);
        var (first, second) = (Values.Normal(1, 1, 3, Width), Values.Normal(2, 1, 1, Width));
        backbone.forward(first, new MixerContext { State = state });
        Assert.Throws<InvalidOperationException>(() => backbone.forward(Values.Normal(3, 1, 2, Width), new MixerContext { State = state }));
        Assert.All(state.Parts, part => Assert.Equal(3, part.Position));
        var continued = backbone.forward(second, new MixerContext { State = state });
        TensorAssert.Close(backbone.call(cat([first, second], 1)).narrow(1, 3, 1), continued, 1e-5, "after the refused call");
    }

    [Theory]
    [InlineData(256, 1, 3, 428_032)]
    [InlineData(256, 1, 1, 786_432)]
    [InlineData(1991, 6, 3, 3_794_688)]
    [InlineData(256, 6, 3, 3_284_992)]
    [InlineData(256, 3, 3, 1_642_496)]
    public void TheEstimateIsThatOfEarlierSystems(long embedWidth, long layers, long every, long expected) =>
        Assert.Equal(expected, HybridBackbone.EstimateParameterCount(embedWidth, layers: layers, attentionEvery: every));

    [Fact]
    public void TheDescriptionListsEveryLayerAndTheTotals()
    {
        using var backbone = Builder().Build();
        using var state = backbone.CreateState(1);
        var lines = backbone.Describe().Split(Environment.NewLine);
        Assert.Equal(backbone.Blocks.Count + 2, lines.Length);
        for (var i = 0; i < backbone.Blocks.Count; i++)
        {
            var parameters = backbone.Blocks[i].parameters().Sum(parameter => parameter.numel());
            Assert.Equal(
                [$"{i}", backbone.Pattern.Mixers[i], "[B,", "T,", $"{Width}]", "->", "[B,", "T,", $"{Width}]", $"{parameters:N0}", $"{state.Parts[i].ByteSize:N0}"],
                lines[i + 1].Split(' ', StringSplitOptions.RemoveEmptyEntries));
        }

        Assert.Equal(["total", $"{backbone.CountParameters():N0}", $"{state.ByteSize:N0}"], lines[^1].Split(' ', StringSplitOptions.RemoveEmptyEntries));
    }

    [Fact]
    public void LayersWithoutAMixerAreDescribedCountedAndCarried()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = new BackboneBuilder(Width).WithPattern(LayerPattern.FromSymbols("M-*E"))
            .WithBlocks(new BlockOptions { FeedForward = new() { IntermediateSize = 6 } })
            .WithExperts(new() { NumExperts = 3, TopK = 1, IntermediateSize = 5 })
            .WithMixer("attention", new AttentionOptions { NumHeads = 2 }).Build();
        Assert.Equal([false, true, false, true], backbone.Blocks.Select(block => block.Mixer is null));
        Assert.Equal([null, 6L, null, null], backbone.Blocks.Select(block => block.get_parameter("ffn.up_proj.weight")?.size(0)));
        Assert.NotNull(backbone.Blocks[3].Experts);

        // SwiGLU of 6 and a norm; a router, three experts of three matrices, and a norm.
        var lines = backbone.Describe().Split(Environment.NewLine);
        Assert.Equal(["1", "mlp", $"{(3 * 8 * 6) + 8}", "0"], Cells(lines[2]));
        Assert.Equal(["3", "experts", $"{(3 * 8) + (3 * 3 * 5 * 8) + 8}", "0"], Cells(lines[4]));

        var x = Values.Normal(3, 2, 11, Width);
        using var state = backbone.CreateState(2);
        var pieces = new[] { x.narrow(1, 0, 4), x.narrow(1, 4, 7) }
            .Select(piece => backbone.forward(piece, new MixerContext { State = state })).ToArray();
        TensorAssert.Close(backbone.call(x), cat(pieces, 1), 1e-5, "in pieces");
        Assert.All(state.Parts, part => Assert.Equal(11, part.Position));

        static string[] Cells(string line)
        {
            var cells = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            return [cells[0], cells[1], cells[^2], cells[^1]];
        }
    }

    [Theory]
    [InlineData(1, 3)]
    [InlineData(4, 0)]
    public void AttentionAtEveryLayerOrAtNone(int every, int attentionLayers)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = new BackboneBuilder(2 * Width).WithPattern(LayerPattern.Every(3, every)).Build();
        Assert.Equal(attentionLayers, backbone.Blocks.Count(block => block.Mixer is MultiHeadAttention));
        Assert.Equal(3 - attentionLayers, backbone.Blocks.Count(block => block.Mixer is MambaMixer));
        Assert.Equal([2, 5, 2 * Width], backbone.call(Values.Normal(1, 2, 5, 2 * Width)).shape);
    }

    [Fact]
    public void AnInputOfAnotherWidthIsProjected()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Builder().WithInputWidth(5).Build();
        using var plain = Builder().Build();
        plain.load_state_dict(backbone.state_dict().Where(entry => !entry.Key.StartsWith("input_proj", StringComparison.Ordinal))
            .ToDictionary(entry => entry.Key, entry => entry.Value));
        var x = Values.Normal(1, 2, 9, 5);
        var projected = nn.functional.linear(x, backbone.get_parameter("input_proj.weight")!, backbone.get_parameter("input_proj.bias")!);
        TensorAssert.Identical(plain.call(projected), backbone.call(x), "projected first");
        Assert.Equal((5, Width), (backbone.InputWidth, backbone.OutputSize));
        Assert.Null(plain.get_parameter("input_proj.weight"));
    }

    [Theory]
    [InlineData(PaddingSide.Right, new long[] { 9, 1, 4 })]
    [InlineData(PaddingSide.Left, new long[] { 9, 1, 4 })]
    [InlineData(PaddingSide.Right, null)]
    public void LastIsTheLastRealPositionOfEachRow(PaddingSide side, long[]? lengths)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Builder().WithOutput(BackboneOutput.Last).Build();
        using var sequence = Builder().Build();
        sequence.load_state_dict(backbone.state_dict());
        var x = Values.Normal(2, 3, 9, Width);
        var y = backbone.forward(x, new MixerContext { Lengths = lengths, PaddingSide = side });
        Assert.Equal([3, Width], y.shape);
        for (var row = 0; row < 3; row++)
        {
            var length = lengths?[row] ?? 9;
            var alone = sequence.call(x.narrow(0, row, 1).narrow(1, side == PaddingSide.Left ? 9 - length : 0, length));
            TensorAssert.Close(alone[0][length - 1], y[row], 1e-5, $"row {row}");
        }
    }

    [Fact]
    public void ParametersAreCountedExactly()
    {
        // Width 8. Mamba with E = 16, N = 4, R = 1, W = 4: in 8*32, conv 16*4 + 16, x 16*9, dt 16*1 + 16, A_log 16*4, D 16, out 16*8.
        const long mamba = 256 + 80 + 144 + 32 + 64 + 16 + 128;
        const long attention = 4 * 8 * 8;
        const long norms = 2 * 8;
        using var plain = Make(new BlockOptions()).Build();
        Assert.Equal(mamba + attention + norms + 8, plain.CountParameters());

        // SwiGLU of 12: three matrices and a norm a layer. The input projection has a bias.
        using var full = Make(new BlockOptions { FeedForward = new() { IntermediateSize = 12 } }).WithInputWidth(5).Build();
        Assert.Equal(mamba + attention + norms + 8 + (2 * ((3 * 8 * 12) + 8)) + (5 * 8) + 8, full.CountParameters());

        static BackboneBuilder Make(BlockOptions blocks) => new BackboneBuilder(8)
            .WithPattern(LayerPattern.Cycle(2, ["mamba", "attention"]))
            .WithMixer("mamba", new MambaOptions { DState = 4 }).WithMixer("attention", new AttentionOptions { NumHeads = 2 }).WithBlocks(blocks);
    }

    [Fact]
    public void TheStateHasAPartForEveryLayer()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Builder().Build();
        using var state = backbone.CreateState(2);
        Assert.Equal([typeof(MambaState), typeof(KeyValueState), typeof(RoutedState)], state.Parts.Select(part => part.GetType()));
        var x = Values.Normal(3, 2, 11, Width);
        var pieces = new[] { x.narrow(1, 0, 4), x.narrow(1, 4, 1), x.narrow(1, 5, 6) }
            .Select(piece => backbone.forward(piece, new MixerContext { State = state })).ToArray();
        TensorAssert.Close(backbone.call(x), cat(pieces, 1), 1e-5, "in pieces");
        Assert.Equal(11, state.Position);
        Assert.All(state.Parts, part => Assert.Equal([11, 11], part.Positions));
        Assert.Equal(state.Parts.Sum(part => part.ByteSize), state.ByteSize);
        Assert.Equal(["0.conv", "0.ssm", "1.k", "1.v", "2.k", "2.v"], state.NamedTensors.Select(entry => entry.Name));
        Assert.False(state.CanTrim);
    }

    [Fact]
    public void AStackOfAttentionCanTrim()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = new BackboneBuilder(Width).WithPattern(LayerPattern.Every(2, 1)).WithMixer("attention", new AttentionOptions { NumHeads = 2 }).Build();
        using var state = backbone.CreateState(1);
        var x = Values.Normal(3, 1, 7, Width);
        backbone.forward(x, new MixerContext { State = state });
        Assert.True(state.CanTrim);
        state.Trim(3);
        Assert.Equal(3, state.Position);
        var rest = backbone.forward(x.narrow(1, 3, 4), new MixerContext { State = state });
        TensorAssert.Close(backbone.call(x).narrow(1, 3, 4), rest, 1e-5, "after the trim");
    }

    [Fact]
    public void AStateThatDoesNotFitIsRefused()
    {
        using var scope = NewDisposeScope();
        using var backbone = Builder().Build();
        using var other = new BackboneBuilder(Width).WithPattern(LayerPattern.Every(2, 3)).Build();
        var x = Values.Normal(3, 2, 5, Width);
        Expect(backbone.CreateState(3), "got a CompositeState of 3 sequences");
        Expect(other.CreateState(2), "got a CompositeState of 2 sequences");
        Expect(other.Blocks[0].CreateState(2), "got a MambaState of 2 sequences");
        Assert.Throws<ArgumentOutOfRangeException>(() => backbone.CreateState(0));
        var error = Assert.Throws<ArgumentException>(() => backbone.call(zeros(2, 5, Width + 1)));
        Assert.StartsWith("HybridBackbone: the input must be [B, T, 8]; got [2, 5, 9].", error.Message, StringComparison.Ordinal);

        void Expect(MixerState state, string text)
        {
            using (state)
            {
                var refusal = Assert.Throws<ArgumentException>(() => backbone.forward(x, new MixerContext { State = state }));
                Assert.StartsWith("HybridBackbone: the state must be made by CreateState(2) of this backbone; ", refusal.Message, StringComparison.Ordinal);
                Assert.Contains(text, refusal.Message, StringComparison.Ordinal);
                Assert.Equal(0, state.Position);
            }
        }
    }

    /// <summary>A recurrent layer has taken the tokens that a later layer refused: such a state must not go on as if nothing had been.</summary>
    [Fact]
    public void AStateThatACallLeftHalfAdvancedIsRefused()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = new BackboneBuilder(Width).WithPattern(LayerPattern.Cycle(2, ["mamba", "custom"]))
            .WithFactory("custom", width => new CausalOnly(width)).Build();
        var x = Values.Normal(3, 2, 5, Width);
        using var state = backbone.CreateState(2);
        using var kept = state.Clone();
        Assert.Throws<NotSupportedException>(() => backbone.forward(x, new MixerContext { State = state, PrefixLengths = [3, 3] }));
        var refusal = Assert.Throws<ArgumentException>(() => backbone.forward(x, new MixerContext { State = state }));
        Assert.StartsWith(
            "HybridBackbone: an earlier call failed between the parts of this state: part 0 has 5 tokens; expected at most 0.", refusal.Message, StringComparison.Ordinal);
        TensorAssert.Close(backbone.call(x), backbone.forward(x, new MixerContext { State = kept }), 1e-5, "from the clone");
    }

    /// <summary>Passes its input on, and refuses prefixes.</summary>
    private sealed class CausalOnly(long width) : SequenceMixer(nameof(CausalOnly), width)
    {
        public override MixerState CreateState(long batchSize) => new ScalingMixer.Counter(batchSize);

        public override Tensor forward(Tensor x, MixerContext context) =>
            context.PrefixLengths is null ? x * 1 : throw new NotSupportedException("CausalOnly: there are no prefixes.");
    }

    private static BackboneBuilder Builder()
    {
        manual_seed(6);
        return new BackboneBuilder(Width)
            .WithPattern(LayerPattern.Cycle(3, ["mamba", "attention", "hybrid_attention"]))
            .WithMixer("attention", new AttentionOptions { NumHeads = 2 })
            .WithMixer("hybrid_attention", new HybridAttentionOptions { AttentionConfig = new() { NumHeads = 4 } });
    }
}
