using Hybrid.Attention;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static Hybrid.Attention.HeadType;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

/// <summary>The compatible mode against its definition in explicit sums, in float64.</summary>
public class MixedHeadUpstreamTests
{
    private const int Width = 12;
    private const int HeadWidth = 3;
    private static readonly MixedHeadOptions Options = new()
    {
        HeadTypes = [Spectral, Standard, Holonomy, Spectral], Compat = MixedHeadCompat.Upstream, Causal = false, MaxSeqLen = 8,
    };

    [Fact]
    public void ParameterCountsAreThoseOfTheDemonstration()
    {
        var options = new MixedHeadOptions { HeadTypes = MixedHeadOptions.Mix(4, 2, 2), Compat = MixedHeadCompat.Upstream, MaxSeqLen = 128 };
        using var mixed = new MixedHeadAttention(512, options);
        var counts = mixed.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter.numel());
        Assert.Equal(1_125_124, counts.Values.Sum());
        var bins = counts.Where(entry => entry.Key.EndsWith("log_gain", StringComparison.Ordinal) || entry.Key.EndsWith("phase", StringComparison.Ordinal));
        Assert.Equal(1_124_864, counts.Values.Sum() - bins.Sum(entry => entry.Value));
    }

    [Theory]
    [InlineData(true, 8)]
    [InlineData(false, 8)]
    [InlineData(false, 7)]
    public void OutputsAreThoseOfTheDefinition(bool isCausal, int time)
    {
        using var mixed = Make(Options with { Causal = isCausal, MaxSeqLen = time });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var weights = mixed.state_dict();
        var x = Values.Normal(2, time, Width).to_type(ScalarType.Float64);

        // Groups of heads, whatever the order of the types: standard 0, spectral 1 and 2, holonomy 3.
        var projected = Linear("qkv_proj", x).view(time, 3, 4, HeadWidth);
        var (query, key, value) = (projected.select(1, 0), projected.select(1, 1), projected.select(1, 2));
        var standard = Attention(query.select(1, 0), key.select(1, 0), value.select(1, 0));
        var holonomy = Attention(query.select(1, 3).matmul(weights["holonomy.curvature"][0]), key.select(1, 3), value.select(1, 3));
        var joined = query.narrow(1, 1, 2).reshape(time, 2 * HeadWidth);
        var inner = Linear("spectral_layer.qkv_proj", joined).narrow(1, 4 * HeadWidth, 2 * HeadWidth).view(time, 2, HeadWidth);
        var filtered = cat([Filtered(inner.select(1, 0), 0), Filtered(inner.select(1, 1), 1)], 1);
        var spectral = joined + Linear("spectral_layer.o_proj", filtered);
        var expected = x + Linear("o_proj", cat([standard, spectral, holonomy], 1));
        TensorAssert.Close(expected, mixed.call(x.unsqueeze(0))[0], 1e-12, $"{time} tokens");

        Tensor Linear(string name, Tensor input) => input.matmul(weights[name + ".weight"].transpose(0, 1)) + weights[name + ".bias"];

        Tensor Attention(Tensor q, Tensor k, Tensor v)
        {
            var scores = q.matmul(k.transpose(0, 1)) / Math.Sqrt(HeadWidth);
            return (isCausal ? scores + full([time, time], double.NegativeInfinity, dtype: ScalarType.Float64).triu(1) : scores).softmax(-1).matmul(v);
        }

        // y_t = 1/T sum_k sum_s g_k cos(2 pi k (t - s) / T + p_k) v_s, over a frequency and its mirror image.
        Tensor Filtered(Tensor v, int head)
        {
            var gain = Values.Of(weights["spectral_layer.filter.log_gain"][head]);
            var phase = Values.Of(weights["spectral_layer.filter.phase"][head]);
            var taps = Enumerable.Range(0, time * time).Select(i => Enumerable.Range(0, time).Sum(k =>
            {
                var bin = Math.Min(k, time - k);
                var angle = (2 * Math.PI * bin * ((i / time) - (i % time)) / time) + phase[bin];
                return Math.Exp(gain[bin]) * Math.Cos(angle) / time;
            })).ToArray();
            return tensor(taps).view(time, time).matmul(v);
        }
    }

    [Fact]
    public void TheOrderOfTheTypesMakesNoDifference()
    {
        using var mixed = Make(Options);
        using var other = Make(Options with { HeadTypes = [Holonomy, Spectral, Spectral, Standard] });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        Assert.Equal([Standard, Spectral, Spectral, Holonomy], mixed.HeadTypes);
        other.load_state_dict(mixed.state_dict());
        var x = Values.Normal(3, 2, 5, Width).to_type(ScalarType.Float64);
        TensorAssert.Identical(mixed.call(x), other.call(x), "other order");
    }

    [Fact]
    public void StatesAndPackedRowsAreRefused()
    {
        using var mixed = Make(Options with { Causal = true });
        using var scope = NewDisposeScope();
        var x = Values.Normal(4, 1, 5, Width).to_type(ScalarType.Float64);
        Assert.False(mixed.IsCausal);
        var error = Assert.Throws<NotSupportedException>(() => mixed.CreateState(1));
        Assert.Contains("carry no state", error.Message, StringComparison.Ordinal);
        Assert.Throws<NotSupportedException>(() => mixed.forward(x, new MixerContext { SequenceIds = zeros([1, 5], dtype: ScalarType.Int64) }));

        var changed = x.clone();
        changed.narrow(1, 4, 1).add_(1);
        Assert.True(TensorAssert.RelativeError(mixed.call(x)[0, 0], mixed.call(changed)[0, 0]) > 1e-4, "the filter goes around the row");
    }

    [Fact]
    public void GradientsReachEveryParameter()
    {
        using var mixed = Make(Options);
        using var scope = NewDisposeScope();
        var x = Values.Normal(5, 2, 8, Width).to_type(ScalarType.Float64);
        (mixed.call(x) * Values.Normal(6, 2, 8, Width)).sum().backward();
        Assert.All(mixed.named_parameters(), entry => Assert.True(entry.parameter.grad!.abs().sum().ToDouble() > 0, entry.name));
        Assert.Equal([Standard, Spectral, Holonomy], MixedHeadAnalysis.GradientNorms(mixed).Select(entry => entry.Type));
    }

    private static MixedHeadAttention Make(MixedHeadOptions options)
    {
        manual_seed(7);
        var mixed = new MixedHeadAttention(Width, options);
        mixed.to(ScalarType.Float64);
        using var guard = no_grad();
        using var scope = NewDisposeScope();
        foreach (var parameter in mixed.ParametersWithoutWeightDecay)
        {
            parameter.normal_(0, 0.5);
        }

        return mixed;
    }
}
