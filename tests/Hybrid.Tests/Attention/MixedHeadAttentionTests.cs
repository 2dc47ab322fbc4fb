using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static Hybrid.Attention.HeadType;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

public class MixedHeadAttentionTests
{
    private const double Tolerance = 1e-5;

    [Fact]
    public void StandardHeadsAloneAreMultiHeadAttention()
    {
        using var mixed = Make(12, new MixedHeadOptions { HeadTypes = MixedHeadOptions.Mix(3, 0, 0) });
        using var attention = new MultiHeadAttention(12, new AttentionOptions { NumHeads = 3, UseRope = false, UseBias = true });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var state = mixed.state_dict();
        var weights = attention.state_dict();
        foreach (var (name, part) in new[] { ("q_proj", 0), ("k_proj", 1), ("v_proj", 2) })
        {
            weights[name + ".weight"].copy_(state["qkv_proj.weight"].narrow(0, 12 * part, 12));
            weights[name + ".bias"].copy_(state["qkv_proj.bias"].narrow(0, 12 * part, 12));
        }

        weights["o_proj.weight"].copy_(state["o_proj.weight"]);
        var x = Values.Normal(1, 2, 17, 12);
        TensorAssert.Close(attention.call(x) + state["o_proj.bias"], mixed.call(x), Tolerance, "three standard heads");
    }

    [Fact]
    public void TheOrderOfTheHeadsPermutesTheirBlocks()
    {
        var options = new MixedHeadOptions { HeadTypes = [Standard, Spectral], SpectralLags = 5, SpectralBins = 4 };
        using var first = Make(8, options);
        using var second = Make(8, options with { HeadTypes = [Spectral, Standard] });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var curve in first.Filter!.Curves)
        {
            curve.normal_();
        }

        second.load_state_dict(first.state_dict());
        var x = Values.Normal(2, 2, 11, 8);
        var expected = first.call(x);
        Assert.True(TensorAssert.RelativeError(expected, second.call(x)) > 1e-2, "with the same weights the order must show");

        var (weights, swapped) = (first.state_dict(), second.state_dict());
        swapped["qkv_proj.weight"].copy_(weights["qkv_proj.weight"].view(3, 2, 4, 8).flip(1).reshape(24, 8));
        swapped["qkv_proj.bias"].copy_(weights["qkv_proj.bias"].view(3, 2, 4).flip(1).flatten());
        swapped["o_proj.weight"].copy_(weights["o_proj.weight"].view(8, 2, 4).flip(1).reshape(8, 8));
        TensorAssert.Close(expected, second.call(x), Tolerance, "with the blocks swapped");
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TheResidualIsTheInput(bool isCausal)
    {
        var options = new MixedHeadOptions { HeadTypes = [Standard, Spectral, Holonomy], SpectralLags = 5, Causal = isCausal };
        using var without = Make(9, options);
        using var with = Make(9, options with { Residual = true });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        with.load_state_dict(without.state_dict());
        var x = Values.Normal(3, 2, 7, 9);
        TensorAssert.Close(x + without.call(x), with.call(x), 1e-6, "x + y");
    }

    [Fact]
    public void WithoutCausalityPaddedRowsEqualTheirSequencesAlone()
    {
        using var mixed = Make(12, new MixedHeadOptions { HeadTypes = [Spectral, Standard, Holonomy], Causal = false });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var x = Values.Normal(4, 3, 9, 12);
        foreach (var side in new[] { PaddingSide.Right, PaddingSide.Left })
        {
            var y = mixed.forward(x, new MixerContext { Lengths = [9, 4, 1], PaddingSide = side });
            foreach (var (row, length) in new[] { (0, 9L), (1, 4L), (2, 1L) })
            {
                var start = side == PaddingSide.Left ? 9 - length : 0;
                var alone = mixed.call(x.narrow(0, row, 1).narrow(1, start, length));
                TensorAssert.Close(alone, y.narrow(0, row, 1).narrow(1, start, length), Tolerance, $"row {row}, padding {side}");
            }
        }
    }

    [Fact]
    public void WithoutCausalityEveryTokenSeesTheWholeRow()
    {
        foreach (var type in Enum.GetValues<HeadType>())
        {
            using var mixed = Make(6, new MixedHeadOptions { HeadTypes = [type], Causal = false });
            using var scope = NewDisposeScope();
            using var guard = no_grad();
            foreach (var curve in mixed.Filter?.Curves ?? [])
            {
                curve.normal_();
            }

            var x = Values.Normal(5, 1, 8, 6);
            var changed = x.clone();
            changed.narrow(1, 7, 1).add_(1);
            Assert.True(TensorAssert.RelativeError(mixed.call(x)[0, 0], mixed.call(changed)[0, 0]) > 1e-4, $"{type}");
            Assert.Throws<NotSupportedException>(() => mixed.CreateState(1));
            using var other = Make(6, new MixedHeadOptions { HeadTypes = [type] });
            using var state = other.CreateState(1);
            Assert.Throws<NotSupportedException>(() => mixed.forward(x, new MixerContext { State = state }));
            Assert.Throws<NotSupportedException>(() => mixed.forward(x, new MixerContext { SequenceIds = zeros([1, 8], dtype: ScalarType.Int64) }));
        }
    }

    [Theory]
    [InlineData(HolonomyKind.Orthogonal, false, true)]
    [InlineData(HolonomyKind.Transport, true, true)]
    [InlineData(HolonomyKind.Path, false, false)]
    [InlineData(HolonomyKind.Orthogonal, true, false)]
    public void GradientsAreThoseOfDifferences(HolonomyKind kind, bool useDct, bool isCausal)
    {
        using var mixed = Make(12, new MixedHeadOptions
        {
            HeadTypes = [Standard, Spectral, Holonomy], Holonomy = kind, UseDct = useDct, TokenGate = true, SpectralBins = 5, SpectralLags = 6,
            Causal = isCausal,
        });
        mixed.to(ScalarType.Float64);
        using var scope = NewDisposeScope();
        var x = Values.Normal(6, 2, 9, 12).to_type(ScalarType.Float64);
        var weights = Values.Normal(7, 2, 9, 12).to_type(ScalarType.Float64);
        using (no_grad())
        {
            foreach (var parameter in mixed.ParametersOf(Spectral).Concat(mixed.ParametersOf(Holonomy)))
            {
                parameter.normal_(0, 0.5);
            }
        }

        FiniteDifferences.Check(inputs => [mixed.call(inputs[0])], [x]);
        mixed.zero_grad();
        Loss().backward();
        using var guard = no_grad();
        foreach (var (name, parameter) in mixed.named_parameters())
        {
            const double step = 1e-6;
            var direction = Values.Normal(8, parameter.shape).to_type(ScalarType.Float64);
            var analytic = (parameter.grad! * direction).sum().ToDouble();
            parameter.add_(direction * step);
            var above = Loss().ToDouble();
            parameter.sub_(direction * (2 * step));
            var numeric = (above - Loss().ToDouble()) / (2 * step);
            parameter.add_(direction * step);
            Assert.True(Math.Abs(analytic - numeric) <= 1e-6 * Math.Max(1, Math.Abs(analytic)), $"{name}: {analytic:g9} and {numeric:g9}");
            Assert.True(Math.Abs(analytic) > 1e-6, $"{name} has no gradient");
        }

        Tensor Loss() => (mixed.call(x) * weights).sum();
    }

    [Theory]
    [InlineData(MixedHeadCompat.None)]
    [InlineData(MixedHeadCompat.Upstream)]
    public void NoParameterIsCreatedAfterConstruction(MixedHeadCompat compat)
    {
        using var mixed = Make(16, new MixedHeadOptions { HeadTypes = [Standard, Spectral, Holonomy, Spectral], Compat = compat, MaxSeqLen = 32 });
        using var scope = NewDisposeScope();
        var before = mixed.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter);
        foreach (var time in new long[] { 1, 7, 32, 40 })
        {
            mixed.call(Values.Normal(9, 1, time, 16));
        }

        var after = mixed.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter);
        Assert.Equal(before.Keys.Order(), after.Keys.Order());
        Assert.All(before, entry => Assert.Equal(entry.Value.Handle, after[entry.Key].Handle));
    }

    [Fact]
    public void StatisticsAreThoseOfTheHeads()
    {
        using var mixed = Make(8, new MixedHeadOptions { HeadTypes = [Spectral, Standard, Spectral, Standard], SpectralLags = 4 });
        using var scope = NewDisposeScope();
        var x = Values.Normal(10, 2, 6, 8);
        var statistics = MixedHeadAnalysis.OutputStatistics(mixed, x);
        Assert.Equal([(Standard, 2), (Spectral, 2)], statistics.Select(entry => (entry.Type, entry.Heads)));

        // The filter starts as the identity: spectral heads give their values.
        var projected = Values.Of(x.matmul(mixed.InProjection.weight!.transpose(0, 1)) + mixed.InProjection.bias!);
        double[] values = [.. projected.Where((_, i) => i % 24 is >= 16 and var channel && (channel - 16) / 2 % 2 == 0)];
        var spectral = statistics[1];
        Assert.Equal(values.Average(), spectral.Mean, 5);
        Assert.Equal(Math.Sqrt(values.Average(value => (value - values.Average()) * (value - values.Average()))), spectral.Std, 5);
        Assert.Equal((values.Min(), values.Max()), (spectral.Min, spectral.Max), (a, b) => Math.Abs(a.Item1 - b.Item1) + Math.Abs(a.Item2 - b.Item2) < 1e-5);
    }

    [Fact]
    public void GradientNormsAddUpToThoseOfTheParameters()
    {
        using var mixed = Make(12, new MixedHeadOptions { HeadTypes = [Holonomy, Standard, Spectral, Standard], SpectralLags = 4 });
        using var scope = NewDisposeScope();
        Assert.Contains("run a backward pass", Assert.Throws<InvalidOperationException>(() => MixedHeadAnalysis.GradientNorms(mixed)).Message, StringComparison.Ordinal);
        mixed.call(Values.Normal(11, 2, 6, 12)).square().sum().backward();
        var norms = MixedHeadAnalysis.GradientNorms(mixed);
        Assert.Equal([Standard, Spectral, Holonomy], norms.Select(entry => entry.Type));
        Assert.Equal([0], norms.Where(entry => entry.Own == 0).Select(entry => (int)entry.Type));
        var parts = norms.Sum(entry => Square(entry.InProjection) + Square(entry.OutProjection) + Square(entry.Own));
        var whole = mixed.named_parameters().Where(entry => entry.name != "o_proj.bias").Sum(entry => entry.parameter.grad!.square().sum().ToDouble());
        Assert.Equal(1, parts / whole, 5);

        static double Square(double value) => value * value;
    }

    [Fact]
    public void OptionsThatDoNotFitAreNamed()
    {
        Expect("in a number that divides the width, 10; got 8", 10, new MixedHeadOptions());
        Expect("HeadTypes must be of Standard, Spectral, Holonomy; got 7", 8, new MixedHeadOptions { HeadTypes = [Standard, (HeadType)7] });
        Expect("HeadTypes must be at least one", 8, new MixedHeadOptions { HeadTypes = [] });
        Expect("heads of an even width; got 5", 10, new MixedHeadOptions { HeadTypes = [Holonomy, Standard], Holonomy = HolonomyKind.Path });
        Expect("Compat of Upstream has no UseDct", 8, new MixedHeadOptions { Compat = MixedHeadCompat.Upstream, UseDct = true });
        Expect("SpectralBins must be at least 3; got 2", 8, new MixedHeadOptions { SpectralBins = 2 });
        Expect("SpectralLags must be at least 2; got 1", 8, new MixedHeadOptions { SpectralLags = 1 });

        static void Expect(string text, long width, MixedHeadOptions options) =>
            Assert.Contains(text, Assert.ThrowsAny<ArgumentException>(() => new MixedHeadAttention(width, options)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TomlStatesEveryOption()
    {
        var config = HybridConfig.Parse("""
            [model]
            hidden_size = 16
            num_layers = 1
            layers = ["mixed_heads"]
            [model.mixed_heads]
            head_types = ["spectral", "standard", "holonomy", "standard"]
            holonomy = "transport"
            spectral_bins = 9
            spectral_lags = 12
            use_dct = true
            token_gate = true
            causal = true
            residual = false
            dropout_rate = 0.1
            max_seq_len = 64
            compat = "none"
            """);
        var options = Assert.IsType<MixedHeadOptions>(config.Model!.Mixers["mixed_heads"]);
        Assert.Equal([Spectral, Standard, Holonomy, Standard], options.HeadTypes);
        Assert.Equal(
            (HolonomyKind.Transport, 9, 12, true, true, true, false, 0.1, 64, MixedHeadCompat.None),
            (options.Holonomy, options.SpectralBins, options.SpectralLags, options.UseDct, options.TokenGate, options.Causal, options.Residual,
                options.DropoutRate, options.MaxSeqLen, options.Compat));
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));

        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse("""
            [model]
            layers = ["mixed_heads"]
            [model.mixed_heads]
            head_types = ["standard", "spectrum"]
            """));
        Assert.Contains("""one of "standard", "spectral", "holonomy"; found "spectrum"; did you mean 'spectral'?""", error.Message, StringComparison.Ordinal);
    }

    private static MixedHeadAttention Make(long width, MixedHeadOptions options)
    {
        manual_seed(3);
        return new MixedHeadAttention(width, options);
    }
}
