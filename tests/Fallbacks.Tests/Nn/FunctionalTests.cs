using System.Runtime.InteropServices;
using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;
using F = TorchSharp.torch.nn.functional;

namespace Fallbacks.Tests.Nn;

public sealed class FunctionalTests
{
    private static readonly double[] Points = [-30, -3, -1, -0.2, 0, 0.3, 1, 2.5, 30];

    public static TheoryData<string> Activations =>
        ["relu", "silu", "gelu", "gelu tanh", "softplus", "softplus 2 3"];

    [Theory]
    [MemberData(nameof(Activations))]
    public void Activations_follow_their_formulas(string name)
    {
        using var scope = NewDisposeScope();
        var x = Values.Tensor(Points, Points.Length);
        double Sigmoid(double v) => 1 / (1 + Math.Exp(-v));
        var (actual, formula) = name switch
        {
            "relu" => (F.relu(x), v => Math.Max(0, v)),
            "silu" => (F.silu(x), v => v * Sigmoid(v)),
            "gelu" => (F.gelu(x), v => v * NormalCdf(v)),
            "gelu tanh" => (x.gelu(GELU.Approximate.tanh), v => 0.5 * v * (1 + Math.Tanh(Math.Sqrt(2 / Math.PI) * (v + 0.044715 * v * v * v)))),
            "softplus" => (F.softplus(x), v => v > 20 ? v : Math.Log(1 + Math.Exp(v))),
            _ => (F.softplus(x, 2, 3), (Func<double, double>)(v => 2 * v > 3 ? v : Math.Log(1 + Math.Exp(2 * v)) / 2)),
        };

        // The normal distribution is integrated numerically here, to 1e-10.
        Values.Near(Points.Select(formula).ToArray(), actual, 1e-9);
    }

    [Fact]
    public void In_place_activations_change_their_argument()
    {
        using var scope = NewDisposeScope();
        var x = Values.Tensor([-1, 2], 2);
        F.relu(x, inplace: true);
        Values.Near([0, 2], x);
        F.silu(x, inplace: true);
        Values.Near([0, 2 / (1 + Math.Exp(-2))], x);
    }

    [Fact]
    public void Softmax_sums_to_one_along_its_dimension()
    {
        using var scope = NewDisposeScope();
        double[] x = [1, 2, 4, -1, 0, 1000];
        double[] e = [Math.Exp(1), Math.Exp(2), Math.Exp(4)];
        double[] first = e.Select(v => v / e.Sum()).ToArray();

        Values.Near([.. first, 0, 0, 1], F.softmax(Values.Tensor(x, 2, 3), -1));
        Values.Near([.. first.Select(v => Math.Log(v)), -1001, -1000, 0], F.log_softmax(Values.Tensor(x, 2, 3), 1));
        Assert.Equal(ScalarType.Float64, F.softmax(ones(2), 0, ScalarType.Float64).dtype);
    }

    [Theory]
    [InlineData(nn.Reduction.Mean, 0)]
    [InlineData(nn.Reduction.Sum, 0)]
    [InlineData(nn.Reduction.None, 0)]
    [InlineData(nn.Reduction.Mean, 0.1)]
    public void Cross_entropy_is_the_negative_log_of_the_target_share(nn.Reduction reduction, double smoothing)
    {
        using var scope = NewDisposeScope();
        double[] x = Values.Some(4 * 3, 11);
        long[] target = [2, 0, -100, 1];
        var losses = new double[4];
        for (int row = 0; row < 4; row++)
        {
            if (target[row] < 0) continue;
            var slice = x[(row * 3)..(row * 3 + 3)];
            double normaliser = Math.Log(slice.Sum(Math.Exp));
            losses[row] = (1 - smoothing) * (normaliser - slice[target[row]]) + smoothing * slice.Average(v => normaliser - v);
        }
        double[] expected = reduction switch
        {
            nn.Reduction.Mean => [losses.Sum() / 3],
            nn.Reduction.Sum => [losses.Sum()],
            _ => losses,
        };

        Values.Near(expected, F.cross_entropy(Values.Tensor(x, 4, 3), tensor(target), reduction: reduction, label_smoothing: smoothing));
    }

    [Fact]
    public void Cross_entropy_can_weigh_classes_and_ignore_one()
    {
        using var scope = NewDisposeScope();
        double[] x = [0, 1, 0, 0];
        var weight = Values.Tensor([1, 3], 2);
        double first = Math.Log(1 + Math.E) - 1, second = Math.Log(2);

        Values.Near([(3 * first + second) / 4], F.cross_entropy(Values.Tensor(x, 2, 2), tensor(new long[] { 1, 0 }), weight));
        Values.Near([first], F.cross_entropy(Values.Tensor(x, 2, 2), tensor(new long[] { 1, 0 }), ignore_index: 0));
        Values.Near([second], F.cross_entropy(Values.Tensor(x, 2, 2), tensor(new long[] { 1, 0 }), ignore_index: 1));
    }

    [Theory]
    [InlineData("none")]
    [InlineData("causal")]
    [InlineData("boolean")]
    [InlineData("additive")]
    public void Attention_weighs_values_by_similarity(string kind)
    {
        using var scope = NewDisposeScope();
        const int heads = 2, queries = 3, keys = 4, size = 5, valueSize = 2;
        double[] q = Values.Some(heads * queries * size, 12), k = Values.Some(heads * keys * size, 13), v = Values.Some(heads * keys * valueSize, 14);
        bool[] open = [true, false, true, true, false, true, true, false, true, true, false, true];
        double[] added = Values.Some(queries * keys, 15);
        double Mask(int i, int j) => kind switch
        {
            "causal" => j <= i ? 0 : double.NegativeInfinity,
            "boolean" => open[i * keys + j] ? 0 : double.NegativeInfinity,
            "additive" => added[i * keys + j],
            _ => 0,
        };

        var expected = new double[heads * queries * valueSize];
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < queries; i++)
            {
                var shares = Enumerable.Range(0, keys)
                    .Select(j => Math.Exp(Enumerable.Range(0, size).Sum(e => q[(h * queries + i) * size + e] * k[(h * keys + j) * size + e]) / Math.Sqrt(size) + Mask(i, j)))
                    .ToArray();
                for (int e = 0; e < valueSize; e++)
                    expected[(h * queries + i) * valueSize + e] = Enumerable.Range(0, keys).Sum(j => shares[j] * v[(h * keys + j) * valueSize + e]) / shares.Sum();
            }

        var mask = kind switch
        {
            "boolean" => tensor(open, [queries, keys]),
            "additive" => Values.Tensor(added, queries, keys),
            _ => null,
        };
        var actual = F.scaled_dot_product_attention(
            Values.Tensor(q, 1, heads, queries, size), Values.Tensor(k, 1, heads, keys, size), Values.Tensor(v, 1, heads, keys, valueSize),
            mask, is_casual: kind == "causal");
        Assert.Equal([1, heads, queries, valueSize], actual.shape);
        Values.Near(expected, actual);
    }

    [Fact]
    public void Attention_takes_a_mask_or_is_causal_not_both()
    {
        using var scope = NewDisposeScope();
        var x = ones(1, 1, 2, 2);

        Assert.Throws<ArgumentException>(() => F.scaled_dot_product_attention(x, x, x, ones(2, 2), is_casual: true));
    }

    [Fact]
    public void Attention_has_gradients_and_leaves_nothing_behind()
    {
        using var scope = NewDisposeScope();
        var x = Values.SomeTensor(16, 1, 1, 3, 4).requires_grad_();
        long before = Values.Live;
        var y = F.scaled_dot_product_attention(x, x, x, is_casual: true);
        Assert.Equal(before + 1, Values.Live);

        y.sum().backward();

        const double step = 1e-6;
        var values = Values.Of(x);
        var numeric = new double[values.Length];
        for (int i = 0; i < values.Length; i++)
        {
            double Loss(double change)
            {
                var moved = values.ToArray();
                moved[i] += change;
                var t = Values.Tensor(moved, 1, 1, 3, 4);
                return Values.Of(F.scaled_dot_product_attention(t, t, t, is_casual: true)).Sum();
            }
            numeric[i] = (Loss(step) - Loss(-step)) / (2 * step);
        }
        Values.Near(numeric, x.grad!, 1e-7);
    }

    [Fact]
    public void Padding_fills_reflects_repeats_and_wraps()
    {
        using var scope = NewDisposeScope();
        var x = Values.Tensor([1, 2, 3], 1, 1, 3);

        Values.Near([0, 1, 2, 3, 0, 0], F.pad(x, (1, 2)));
        Values.Near([7, 7, 1, 2, 3], F.pad(x, [2, 0], value: 7));
        Values.Near([2, 3], F.pad(x, [-1, 0]));
        Values.Near([2, 1, 2, 3, 2], F.pad(x, [1, 1], PaddingModes.Reflect));
        Values.Near([1, 1, 2, 3, 3], F.pad(x, [1, 1], PaddingModes.Replicate));
        Values.Near([3, 1, 2, 3, 1], F.pad(x, [1, 1], PaddingModes.Circular));
        Assert.Equal([1L, 3L, 3L], F.pad(x, (0, 0, 1, 1)).shape);
    }

    [Fact]
    public void Initialisers_fill_within_their_bounds()
    {
        using var scope = NewDisposeScope();
        manual_seed(4);
        var weight = nn.Parameter(zeros(50, 40, 3, ScalarType.Float64));

        nn.init.uniform_(weight, -0.5, 2);
        Assert.InRange(Values.Of(weight).Min(), -0.5, -0.49);
        Assert.InRange(Values.Of(weight).Max(), 1.99, 2);
        nn.init.normal_(weight, 3, 0.5);
        // 6000 draws: the mean has standard error 0.0065.
        Assert.InRange(Values.Of(weight).Average(), 2.97, 3.03);
        Values.Near(Enumerable.Repeat(1d, 6000).ToArray(), nn.init.ones_(weight));
        Values.Near(new double[6000], nn.init.zeros_(weight));
        Assert.True(weight.is_leaf && weight.requires_grad);
    }

    [Theory]
    [InlineData(1.0)]
    [InlineData(100.0)]
    public void Gradients_are_clipped_by_their_common_norm(double limit)
    {
        using var scope = NewDisposeScope();
        var parameters = new[] { nn.Parameter(zeros(2, ScalarType.Float64)), nn.Parameter(zeros(1, ScalarType.Float64)), nn.Parameter(zeros(1)) };
        parameters[0].grad = Values.Tensor([3, 0], 2);
        parameters[1].grad = Values.Tensor([-4], 1);

        double norm = nn.utils.clip_grad_norm_(parameters, limit);

        Assert.Equal(5, norm, 1e-6);
        double scale = Math.Min(1, limit / (5 + 1e-6));
        Values.Near([3 * scale, 0], parameters[0].grad!, 1e-7);
        Values.Near([-4 * scale], parameters[1].grad!, 1e-7);
        Assert.Null(parameters[2].grad);
        Assert.Equal(4 * scale, nn.utils.clip_grad_norm_(parameters, 1e9, double.PositiveInfinity), 1e-6);
    }

    private static double NormalCdf(double x)
    {
        if (x < -12) return 0;
        const int steps = 20_000;
        double from = -12, width = (Math.Min(x, 12) - from) / steps, sum = 0;
        for (int i = 0; i <= steps; i++)
        {
            double t = from + i * width, weight = i is 0 or steps ? 1 : i % 2 == 1 ? 4 : 2;
            sum += weight * Math.Exp(-t * t / 2);
        }
        return sum * width / 3 / Math.Sqrt(2 * Math.PI);
    }
}
