using Hybrid.Backbone;
using Xunit;

namespace Hybrid.Tests.Backbone;

public class LayerPatternTests
{
    [Theory]
    [InlineData(6, 3, "mamba", "m m a m m a")]
    [InlineData(6, 3, "gru", "g g a g g a")]
    [InlineData(7, 2, "mamba", "m a m a m a m")]
    [InlineData(4, 1, "mamba", "a a a a")]
    [InlineData(4, 4, "mamba", "m m m a")]
    [InlineData(4, 5, "mamba", "m m m m")]
    [InlineData(1, 1, "mamba", "a")]
    [InlineData(4, 2, "custom", "custom a custom a")]
    public void EveryCountsLayersFromOne(int layers, int every, string backbone, string text)
    {
        var pattern = LayerPattern.Every(layers, every, backbone);
        Assert.Equal(text, pattern.ToString());
        Assert.Equal(layers, pattern.Count);
        for (var i = 0; i < layers; i++)
        {
            Assert.Equal((i + 1) % every == 0 ? "attention" : backbone, pattern.Mixers[i]);
        }
    }

    [Fact]
    public void AtCountsLayersFromZero()
    {
        Assert.Equal("a m m a", LayerPattern.At(4, [3, 0]).ToString());
        Assert.Equal("g g", LayerPattern.At(2, [], "gru").ToString());
    }

    [Theory]
    [InlineData(3, "m m m")]
    [InlineData(4, "m m m a")]
    [InlineData(12, "m m m a m m m a m m m a")]
    public void AtWithoutLayersIsEveryFourth(int layers, string expected) => Assert.Equal(expected, LayerPattern.At(layers, null).ToString());

    [Fact]
    public void SymbolsNameALayerEach()
    {
        var pattern = LayerPattern.FromSymbols("MG-*EM");
        Assert.Equal(["mamba", "gated_delta_net", "mlp", "attention", "experts", "mamba"], pattern.Mixers);
        Assert.True(pattern.StatesFeedForward);
        Assert.Equal(["mamba2", "attention"], LayerPattern.FromSymbols("M*", "mamba2").Mixers);
        Assert.False(LayerPattern.FromSymbols("M*").StatesFeedForward);
    }

    [Fact]
    public void CycleRepeatsAndCutsTheList()
    {
        Assert.Equal(["x", "y", "z", "x", "y"], LayerPattern.Cycle(5, ["x", "y", "z"]).Mixers);
        Assert.Equal(["x"], LayerPattern.Cycle(1, ["x"]).Mixers);
    }

    [Fact]
    public void NamesThatShareTheirFirstLetterAreWrittenOut()
    {
        Assert.Equal("mamba mine mamba", LayerPattern.Cycle(3, ["mamba", "mine"]).ToString());
        Assert.Equal("h m", LayerPattern.Cycle(2, ["hybrid_attention", "mamba"]).ToString());
    }

    [Fact]
    public void TheListOfTheCallerIsNotKept()
    {
        var names = new[] { "mamba", "attention" };
        var pattern = LayerPattern.Cycle(2, names);
        names[0] = "gru";
        Assert.Equal("m a", pattern.ToString());
    }

    [Fact]
    public void WhatDoesNotFitIsNamed()
    {
        Expect("there must be at least 1 layer; got 0", () => LayerPattern.Every(0, 3));
        Expect("there must be at least 1 layer; got -1", () => LayerPattern.At(-1, []));
        Expect("there must be at least 1 layer; got 0", () => LayerPattern.Cycle(0, ["mamba"]));
        Expect("attention_every must be at least 1; got 0", () => LayerPattern.Every(6, 0));
        Expect("an attention layer must be 0..3; got 4", () => LayerPattern.At(4, [1, 4]));
        Expect("an attention layer must be 0..3; got -1", () => LayerPattern.At(4, [-1]));
        Expect("each attention layer must be named once; got [1, 2, 1]", () => LayerPattern.At(4, [1, 2, 1]));
        Expect("a list for 2 layers must have 1..2 names; got 3", () => LayerPattern.Cycle(2, ["x", "y", "z"]));
        Expect("a list for 2 layers must have 1..2 names; got 0", () => LayerPattern.Cycle(2, []));

        Expect("there must be at least 1 layer; got 0", () => LayerPattern.FromSymbols(""));
        Expect(
            "layer 2 of 'M*m-' must be M (mixer), * (attention), - (MLP), E (experts) or G (gated delta); got 'm'",
            () => LayerPattern.FromSymbols("M*m-"));

        static void Expect(string text, Func<LayerPattern> make) =>
            Assert.StartsWith($"LayerPattern: {text}.", Assert.ThrowsAny<ArgumentException>(make).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(8, 7, 1, "m m m m m m m a")]
    [InlineData(6, 2, 1, "m m a m m a")]
    [InlineData(4, 0, 1, "a a a a")]
    [InlineData(5, 100, 1, "m m m m a")]
    [InlineData(7, 3, 2, "m a m m a m a")]
    public void ARatioSpreadsAttentionEvenly(int layers, int backbone, int attention, string expected) =>
        Assert.Equal(expected, LayerPattern.Ratio(layers, backbone, attention).ToString());
}
