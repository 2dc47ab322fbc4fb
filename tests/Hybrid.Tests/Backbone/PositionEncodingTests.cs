using Hybrid.Backbone;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Backbone;

public class PositionEncodingTests
{
    [Theory]
    [InlineData(8)]
    [InlineData(7)]
    public void SinesAndCosinesOfThePosition(long width)
    {
        using var scope = NewDisposeScope();
        using var encoding = new PositionEncoding(PositionEncodingKind.Sinusoidal, width);
        var y = encoding.Add(ones(1, 20, width), MixerContext.None);
        for (var p = 0; p < 20; p++)
        {
            for (var c = 0; c < width; c++)
            {
                var angle = p / Math.Pow(10_000, 2.0 * (c / 2) / width);
                Assert.Equal(1 + (c % 2 == 0 ? Math.Sin(angle) : Math.Cos(angle)), y[0, p, c].ToDouble(), 1e-5);
            }
        }
    }

    [Theory]
    [InlineData(PositionEncodingKind.Sinusoidal)]
    [InlineData(PositionEncodingKind.Learned)]
    public void PositionsCountTheRealTokensOfEachSequence(PositionEncodingKind kind)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Backbone(kind, 16);
        var x = Values.Normal(1, 2, 9, 8);
        var whole = backbone.call(x);
        Assert.True(TensorAssert.RelativeError(whole[0][0], backbone.call(x.flip(1))[0][8]) > 1e-2, "the position must matter");

        using var state = backbone.CreateState(2);
        var pieces = new[] { x.narrow(1, 0, 4), x.narrow(1, 4, 5) }.Select(piece => backbone.forward(piece, new MixerContext { State = state }));
        TensorAssert.Close(whole, cat([.. pieces], 1), 1e-6, "carried");

        foreach (var side in new[] { PaddingSide.Right, PaddingSide.Left })
        {
            var padded = backbone.forward(x, new MixerContext { Lengths = [9, 5], PaddingSide = side });
            var start = side == PaddingSide.Left ? 4 : 0;
            TensorAssert.Close(backbone.call(x.narrow(0, 1, 1).narrow(1, start, 5))[0], padded[1].narrow(0, start, 5), 1e-6, $"{side}");
        }

        var ids = tensor(new long[] { 4, 4, 4, 7, 7, 7, 7, 7, 2 }).unsqueeze(0).repeat(2, 1);
        var packed = backbone.forward(x, new MixerContext { SequenceIds = ids });
        TensorAssert.Close(backbone.call(x.narrow(1, 3, 5)), packed.narrow(1, 3, 5), 1e-6, "packed");
    }

    [Fact]
    public void TheLongestSequenceIsALimit()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var backbone = Backbone(PositionEncodingKind.Learned, 6);
        Assert.Equal([6, 8], backbone.get_parameter("position.embedding.weight")!.shape);
        using var state = backbone.CreateState(1);
        backbone.forward(zeros(1, 4, 8), new MixerContext { State = state });
        var error = Assert.Throws<ArgumentException>(() => backbone.forward(zeros(1, 3, 8), new MixerContext { State = state }));
        Assert.Equal("HybridBackbone: the sequence would have 7 tokens; seq_len is 6.", error.Message);
        Assert.Equal(4, state.Position);
        Assert.Throws<ArgumentException>(() => backbone.call(zeros(1, 7, 8)));
        Assert.Throws<ArgumentException>(() => new PositionEncoding(PositionEncodingKind.Learned, 8));
        Assert.Throws<ArgumentException>(() => new PositionEncoding(PositionEncodingKind.None, 8));
    }

    private static HybridBackbone Backbone(PositionEncodingKind kind, long maxLength) => new BackboneBuilder(8)
        .WithPattern(LayerPattern.Cycle(1, ["custom"])).WithFactory("custom", width => new ScalingMixer(width, 0.5))
        .WithPositions(kind).WithMaxLength(maxLength).Build();
}
