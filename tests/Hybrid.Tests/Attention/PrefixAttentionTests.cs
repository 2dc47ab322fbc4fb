using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

/// <summary>Prefix-causal attention: the first tokens of a sequence see each other, the others what came before them.</summary>
public class PrefixAttentionTests
{
    private const int Width = 12;
    private const double Tolerance = 1e-5;

    private static readonly Dictionary<string, AttentionOptions> Options = new()
    {
        ["dense"] = new() { NumHeads = 3 },
        ["dense, groups and window"] = new() { NumHeads = 6, NumKeyValueHeads = 2, WindowSize = 5 },
        ["dense, soft cap"] = new() { NumHeads = 2, SoftCap = 0.7, WindowSize = 4 },
        ["chunked"] = new() { NumHeads = 3, Mode = AttentionMode.Chunked, ChunkSize = 4 },
        ["chunked, groups and window"] = new() { NumHeads = 6, NumKeyValueHeads = 2, WindowSize = 5, Mode = AttentionMode.Chunked, ChunkSize = 3 },
        ["online"] = new() { NumHeads = 3, Mode = AttentionMode.Online, ChunkSize = 4 },
        ["online, groups, window and soft cap"] = new()
        {
            NumHeads = 6, NumKeyValueHeads = 3, WindowSize = 5, SoftCap = 0.7, Mode = AttentionMode.Online, ChunkSize = 3,
        },
    };

    public static TheoryData<string> Variants => new(Options.Keys);

    [Theory]
    [MemberData(nameof(Variants))]
    public void EqualsTheSumOverPairs(string variant)
    {
        // Five rows of 17 tokens: no prefix, one of the first token alone, two that end inside and at the edge of a chunk, the whole row.
        long[] prefixes = [0, 1, 7, 12, 17];
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(variant);
        var x = Values.Normal(4, 5, 17, Width);
        var y = mixer.forward(x, new MixerContext { PrefixLengths = prefixes });
        AssertRows(variant, mixer, x, prefixes, y);
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void StepsAfterThePrefixEqualTheSumOverPairs(string variant)
    {
        long[] prefixes = [9, 3, 0];
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(variant);
        var x = Values.Normal(4, 3, 23, Width);
        using var state = mixer.CreateState(3);
        var pieces = new List<Tensor> { mixer.forward(x.narrow(1, 0, 10), new MixerContext { State = state, PrefixLengths = prefixes }) };
        pieces.Add(mixer.forward(x.narrow(1, 10, 4), new MixerContext { State = state, PrefixLengths = [0, 0, 0] }));
        pieces.AddRange(x.narrow(1, 14, 9).split(1, 1).Select(step => mixer.forward(step, new MixerContext { State = state })));
        AssertRows(variant, mixer, x, prefixes, cat(pieces, 1));
    }

    [Theory]
    [InlineData(PaddingSide.Right)]
    [InlineData(PaddingSide.Left)]
    public void PaddedRowsEqualTheirSequencesAlone(PaddingSide side)
    {
        long[] lengths = [11, 6, 2];
        long[] prefixes = [4, 6, 0];
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var variant in Options.Keys)
        {
            using var mixer = Make(variant);
            var (x, next) = (Values.Normal(4, 3, 11, Width), Values.Normal(5, 3, 3, Width));
            using var state = mixer.CreateState(3);
            var y = mixer.forward(x, new MixerContext { State = state, Lengths = lengths, PaddingSide = side, PrefixLengths = prefixes });
            var continued = mixer.forward(next, new MixerContext { State = state });
            for (var row = 0; row < 3; row++)
            {
                var start = side == PaddingSide.Left ? 11 - lengths[row] : 0;
                var alone = cat([x.narrow(0, row, 1).narrow(1, start, lengths[row]), next.narrow(0, row, 1)], 1);
                var actual = cat([y.narrow(0, row, 1).narrow(1, start, lengths[row]), continued.narrow(0, row, 1)], 1);
                AssertRows($"{variant}, row {row}", mixer, alone, [prefixes[row]], actual);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void OnlyThePrefixSeesAhead(string variant)
    {
        const long Prefix = 8;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(variant);
        var context = new MixerContext { PrefixLengths = [Prefix] };
        var x = Values.Normal(4, 1, 16, Width);
        var y = mixer.forward(x, context);
        for (var changed = 0L; changed < 16; changed++)
        {
            var other = x.clone();
            other.narrow(1, changed, 1).add_(1);
            var difference = (mixer.forward(other, context) - y).abs().amax([2])[0];
            var untouched = changed < Prefix ? 0 : changed;
            Assert.True(untouched == 0 || difference.narrow(0, 0, untouched).max().ToDouble() < 1e-6, $"{variant}: token {changed} reached an earlier one");
            Assert.True(changed >= Prefix || difference.narrow(0, 0, Prefix).min().ToDouble() > 1e-5, $"{variant}: token {changed} did not reach all of the prefix");
        }
    }

    [Theory]
    [InlineData(AttentionMode.Chunked)]
    [InlineData(AttentionMode.Online)]
    public void GradientsOfTheModesAgree(AttentionMode mode)
    {
        using var scope = NewDisposeScope();
        var expected = Gradients(AttentionMode.Dense);
        foreach (var (want, got) in expected.Zip(Gradients(mode)))
        {
            TensorAssert.Close(want, got, Tolerance, $"{mode}");
        }

        Tensor[] Gradients(AttentionMode run)
        {
            var inputs = new[] { Values.Normal(1, 2, 6, 29, 4), Values.Normal(2, 2, 2, 29, 4), Values.Normal(3, 2, 2, 29, 5) };
            Array.ForEach(inputs, input => input.requires_grad_(true));
            var visible = new KeyVisibility([0], 29, 6, null, CPU, [13, 2]);
            var options = new AttentionOptions { Mode = run, ChunkSize = 5 };
            (ScaledDotProduct.Apply(inputs[0], inputs[1], inputs[2], visible, options, 0) * Values.Normal(4, 2, 6, 29, 5)).sum().backward();
            return [.. inputs.Select(input => input.grad!)];
        }
    }

    [Fact]
    public void AStackOfLayersContinuesAfterThePrefix()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(3);
        using var backbone = new BackboneBuilder(Width)
            .WithPattern(LayerPattern.Cycle(3, ["mamba", "attention"]))
            .WithMixer("attention", new AttentionOptions { NumHeads = 3, WindowSize = 6 })
            .Build();
        var x = Values.Normal(4, 2, 20, Width);
        long[] prefixes = [7, 4];
        var whole = backbone.forward(x, new MixerContext { PrefixLengths = prefixes });
        Assert.True(TensorAssert.RelativeError(backbone.forward(x, MixerContext.None), whole) > 1e-3, "the prefix must show, or the test says nothing");

        using var state = backbone.CreateState(2);
        var pieces = new List<Tensor> { backbone.forward(x.narrow(1, 0, 7), new MixerContext { State = state, PrefixLengths = prefixes }) };
        pieces.AddRange(x.narrow(1, 7, 13).split(1, 1).Select(step => backbone.forward(step, new MixerContext { State = state })));
        TensorAssert.Close(whole, cat(pieces, 1), Tolerance, "in steps");
    }

    [Fact]
    public void ARecurrentLayerReadsThePrefixLikeAnyTokens()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MambaMixer(Width);
        var x = Values.Normal(4, 2, 9, Width);
        TensorAssert.Identical(mixer.call(x), mixer.forward(x, new MixerContext { PrefixLengths = [5, 0] }), "mamba");
    }

    [Fact]
    public void PrefixesThatDoNotFitAreNamedAndLeaveTheStateAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var mixer in new SequenceMixer[] { Make("dense"), new MambaMixer(Width) })
        {
            using var owned = mixer;
            using var state = mixer.CreateState(2);
            var x = Values.Normal(4, 2, 5, Width);
            var context = new MixerContext { State = state };
            Refuse(mixer, x, context with { PrefixLengths = [1] }, "PrefixLengths must have one entry a batch row, 2; got 1.");
            Refuse(mixer, x, context with { PrefixLengths = [1, -1] }, "the prefix of row 1 must be 0..5, as the call must hold all of it; got -1.");
            Refuse(mixer, x, context with { PrefixLengths = [6, 1] }, "the prefix of row 0 must be 0..5, as the call must hold all of it; got 6.");
            Refuse(
                mixer, x, context with { PrefixLengths = [4, 4], Lengths = [5, 3] },
                "the prefix of row 1 must be 0..3, as the call must hold all of it; got 4.");
            Refuse(
                mixer, x, new MixerContext { PrefixLengths = [1, 1], SequenceIds = zeros([2, 5], dtype: ScalarType.Int64) },
                "packed rows (SequenceIds) carry no PrefixLengths.");
            Assert.Equal([0, 0], state.Positions);

            mixer.forward(x, context with { Lengths = [5, 3], PrefixLengths = [2, 3] });
            Refuse(
                mixer, x, context with { PrefixLengths = [0, 2] },
                "the prefix of row 1 must be 0, as its sequence has begun, 3 tokens ago; got 2.");
            Assert.Equal([5, 3], state.Positions);
        }

        static void Refuse(SequenceMixer mixer, Tensor x, MixerContext context, string text)
        {
            var error = Assert.Throws<ArgumentException>(() => mixer.forward(x, context));
            Assert.StartsWith($"{mixer.GetName()}: {text}", error.Message, StringComparison.Ordinal);
        }
    }

    private static MultiHeadAttention Make(string variant)
    {
        manual_seed(3);
        return new MultiHeadAttention(Width, Options[variant]);
    }

    private static void AssertRows(string what, MultiHeadAttention mixer, Tensor x, long[] prefixes, Tensor actual)
    {
        var oracle = new NaiveAttention(mixer, Options[what.Split(", row")[0]]);
        for (var row = 0; row < prefixes.Length; row++)
        {
            var expected = Values.Tensor32(oracle.Run(Values.Of(x[row]), prefixes[row]), x.size(1), Width);
            TensorAssert.Close(expected, actual[row], Tolerance, $"{what}, prefix {prefixes[row]}");
        }
    }
}
