using System.Runtime.InteropServices;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Fallbacks.Tests.Nn;

public sealed class LayerTests
{
    [Fact]
    public void Linear_is_a_product_and_a_sum()
    {
        using var scope = NewDisposeScope();
        var linear = nn.Linear(3, 2, dtype: ScalarType.Float64);
        double[] x = Values.Some(5 * 3, 1), w = Values.Of(linear.weight), b = Values.Of(linear.bias!);
        var expected = new double[5 * 2];
        for (int row = 0; row < 5; row++)
            for (int o = 0; o < 2; o++)
                expected[row * 2 + o] = b[o] + Enumerable.Range(0, 3).Sum(i => x[row * 3 + i] * w[o * 3 + i]);

        Values.Near(expected, linear.call(Values.Tensor(x, 5, 3)));
        Assert.Equal((3L, 2L), (linear.in_features, linear.out_features));
    }

    [Fact]
    public void Linear_and_convolution_start_uniform_within_one_over_root_fan_in()
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        foreach (var (weight, bias, fanIn) in new[]
        {
            (Values.Of(nn.Linear(64, 200).weight), Values.Of(nn.Linear(64, 2000).bias!), 64),
            (Values.Of(nn.Conv1d(32, 100, 5, groups: 4).weight), Values.Of(nn.Conv1d(32, 2000, 5, groups: 4).bias!), 40),
        })
        {
            double bound = 1 / Math.Sqrt(fanIn);
            foreach (double[] values in new[] { weight, bias })
            {
                Assert.InRange(values.Max(), 0.98 * bound, bound);
                Assert.InRange(values.Min(), -bound, -0.98 * bound);
                // The standard error of the variance over 2000 uniform draws is 2%.
                Assert.InRange(values.Average(v => v * v) / (bound * bound / 3), 0.9, 1.1);
            }
        }
    }

    [Theory]
    [InlineData(3, 1, 0, 1, 1)]
    [InlineData(3, 2, 2, 1, 2)]
    [InlineData(2, 1, 3, 2, 4)]
    [InlineData(4, 3, 1, 1, 1)]
    public void Conv1d_is_a_sliding_product(int kernel, int stride, int padding, int dilation, int groups)
    {
        using var scope = NewDisposeScope();
        const int batch = 2, channels = 4, outputs = 8, length = 11;
        var conv = nn.Conv1d(channels, outputs, kernel, stride, padding, dilation, groups: groups, dtype: ScalarType.Float64);
        double[] x = Values.Some(batch * channels * length, 3);

        var y = conv.call(Values.Tensor(x, batch, channels, length));

        int positions = (length + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
        Assert.Equal([batch, outputs, positions], y.shape);
        Values.Near(
            Convolve(x, Values.Of(conv.weight), Values.Of(conv.bias!), batch, channels, length, outputs, positions, kernel, stride, padding, dilation, groups),
            y);
    }

    [Fact]
    public void Conv1d_with_padding_same_keeps_the_length()
    {
        using var scope = NewDisposeScope();
        var conv = nn.Conv1d(2, 2, 4, Padding.Same, dtype: ScalarType.Float64);
        double[] x = Values.Some(2 * 7, 4);

        var y = conv.call(Values.Tensor(x, 1, 2, 7));

        // Three in all, one before and two after.
        double[] padded = [0, .. x[..7], 0, 0, 0, .. x[7..], 0, 0];
        Values.Near(Convolve(padded, Values.Of(conv.weight), Values.Of(conv.bias!), 1, 2, 10, 2, 7, 4, 1, 0, 1, 1), y);
        Assert.Throws<ArgumentException>(() => nn.Conv1d(2, 2, 3, Padding.Same, stride: 2));
        Assert.Throws<ArgumentException>(() => conv.call(zeros(1, 3, 7, ScalarType.Float64)));
    }

    [Fact]
    public void Conv1d_can_wrap_around()
    {
        using var scope = NewDisposeScope();
        var conv = nn.Conv1d(1, 1, 3, padding: 1, padding_mode: PaddingModes.Circular, bias: false, dtype: ScalarType.Float64);
        Values.Set(conv.weight, [1, 10, 100]);

        Values.Near([214, 321, 432, 143], conv.call(Values.Tensor([1, 2, 3, 4], 1, 1, 4)));

        // Three in all to keep the length: one before, two after.
        var even = nn.Conv1d(1, 1, 4, Padding.Same, padding_mode: PaddingModes.Circular, bias: false, dtype: ScalarType.Float64);
        Values.Set(even.weight, [1, 10, 100, 1000]);
        Values.Near([3214, 4321, 1432, 2143], even.call(Values.Tensor([1, 2, 3, 4], 1, 1, 4)));
    }

    [Fact]
    public void Embedding_looks_rows_up_and_counts_gradients()
    {
        using var scope = NewDisposeScope();
        var embedding = nn.Embedding(4, 2, padding_idx: 1, dtype: ScalarType.Float64);
        var weight = Values.Of(embedding.weight!);
        Assert.Equal([0, 0], weight[2..4]);

        var rows = embedding.call(tensor(new long[] { 3, 1, 3, 0 }, [2, 2]));

        Assert.Equal([2L, 2L, 2L], rows.shape);
        Values.Near([weight[6], weight[7], 0, 0, weight[6], weight[7], weight[0], weight[1]], rows, 0);
        rows.sum().backward();
        Values.Near([1, 1, 0, 0, 0, 0, 2, 2], embedding.weight!.grad!);
        Values.Near([1, 1, 0, 0, 0, 0, 2, 2], embedding.parameters().Single().grad!);
    }

    [Fact]
    public void Embedding_starts_standard_normal_and_takes_a_new_weight()
    {
        using var scope = NewDisposeScope();
        manual_seed(2);
        var values = Values.Of(nn.Embedding(100, 200).weight!);
        // 20000 draws: the mean has standard error 0.007, the variance 0.01.
        Assert.InRange(values.Average(), -0.035, 0.035);
        Assert.InRange(values.Average(v => v * v), 0.95, 1.05);

        var embedding = nn.Embedding(2, 2);
        embedding.weight = nn.Parameter(tensor(new float[] { 1, 2, 3, 4 }, [2, 2]));
        Values.Near([3, 4], embedding.call(tensor(new long[] { 1 })));
        Values.Near([1, 2, 3, 4], embedding.state_dict()["weight"]);
    }

    [Fact]
    public void Layer_norm_centres_scales_and_maps()
    {
        using var scope = NewDisposeScope();
        var norm = nn.LayerNorm(6, eps: 1e-3, dtype: ScalarType.Float64);
        Values.Near([1, 1, 1, 1, 1, 1], norm.weight);
        Values.Near([0, 0, 0, 0, 0, 0], norm.bias!);
        double[] w = Values.Some(6, 5), b = Values.Some(6, 6), x = Values.Some(4 * 6, 7);
        Values.Set(norm.weight, w);
        Values.Set(norm.bias!, b);

        var expected = new double[24];
        for (int row = 0; row < 4; row++)
        {
            var slice = x[(row * 6)..(row * 6 + 6)];
            double mean = slice.Average(), variance = slice.Average(v => (v - mean) * (v - mean));
            for (int i = 0; i < 6; i++) expected[row * 6 + i] = (slice[i] - mean) / Math.Sqrt(variance + 1e-3) * w[i] + b[i];
        }
        Values.Near(expected, norm.call(Values.Tensor(x, 2, 2, 6)));
        Assert.Empty(nn.LayerNorm(3, elementwise_affine: false).parameters());
        Assert.Equal(["weight"], nn.LayerNorm([2, 3], bias: false).state_dict().Keys);
    }

    [Fact]
    public void Dropout_keeps_the_mean_when_training_and_everything_else()
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        var dropout = nn.Dropout(0.25);
        var x = ones(100_000);

        var values = Values.Of(dropout.call(x));

        Assert.Equal([0, (double)(float)(1 / 0.75)], values.Distinct().Order());
        // The share of zeros has standard error 0.0014.
        Assert.InRange(values.Count(v => v == 0) / 100_000d, 0.243, 0.257);
        dropout.eval();
        Values.Near(Values.Of(x), dropout.call(x), 0);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Gru_follows_its_recurrence(bool batchFirst, bool withState)
    {
        using var scope = NewDisposeScope();
        const int batch = 3, time = 5, input = 4, hidden = 2, layers = 2;
        var gru = nn.GRU(input, hidden, layers, batchFirst: batchFirst, dtype: ScalarType.Float64);
        double[] x = Values.Some(batch * time * input, 8);
        double[] h0 = withState ? Values.Some(layers * batch * hidden, 9) : new double[layers * batch * hidden];

        var sequence = Values.Tensor(x, batch, time, input);
        if (!batchFirst) sequence = sequence.transpose(0, 1);
        var (output, state) = gru.call(sequence, withState ? Values.Tensor(h0, layers, batch, hidden) : null!);
        if (!batchFirst) output = output.transpose(0, 1);

        var weights = gru.state_dict().ToDictionary(p => p.Key, p => Values.Of(p.Value));
        var (expectedOutput, expectedState) = Gru(weights, x, h0, batch, time, input, hidden, layers);
        Assert.Equal([batch, time, hidden], output.shape);
        Assert.Equal([layers, batch, hidden], state.shape);
        Values.Near(expectedOutput, output);
        Values.Near(expectedState, state);
    }

    [Fact]
    public void Gru_names_shapes_and_bounds_are_those_of_pytorch()
    {
        using var scope = NewDisposeScope();
        var gru = nn.GRU(8, 16, numLayers: 2);

        Assert.Equal(
            ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l1", "weight_hh_l1", "bias_ih_l1", "bias_hh_l1"],
            gru.state_dict().Keys);
        Assert.Equal([48L, 8L], gru.get_parameter("weight_ih_l0")!.shape);
        Assert.Equal([48L, 16L], gru.get_parameter("weight_ih_l1")!.shape);
        Assert.All(gru.parameters(), p => Assert.InRange(Values.Of(p).Max(Math.Abs), 0.15, 0.25));
        Assert.Equal(2, nn.GRU(2, 2, bias: false).parameters().Count());
        Assert.Equal(8, nn.GRU(2, 2, bidirectional: true).parameters().Count());
    }

    [Fact]
    public void Gru_checks_its_input()
    {
        using var scope = NewDisposeScope();
        var gru = nn.GRU(3, 2);

        Assert.Throws<ExternalException>(() => gru.call(zeros(4, 3)));
        Assert.Throws<ExternalException>(() => gru.call(zeros(4, 1, 2)));
        Assert.Throws<ExternalException>(() => gru.call(zeros(4, 1, 3), zeros(1, 2, 2)));
    }

    private static double[] Convolve(
        double[] x, double[] w, double[] b, int batch, int channels, int length, int outputs, int positions, int kernel, int stride,
        int padding, int dilation, int groups)
    {
        int perGroup = channels / groups;
        var y = new double[batch * outputs * positions];
        for (int n = 0; n < batch; n++)
            for (int o = 0; o < outputs; o++)
                for (int p = 0; p < positions; p++)
                {
                    double sum = b[o];
                    int first = o / (outputs / groups) * perGroup;
                    for (int c = 0; c < perGroup; c++)
                        for (int k = 0; k < kernel; k++)
                        {
                            int at = p * stride + k * dilation - padding;
                            if (at >= 0 && at < length) sum += w[(o * perGroup + c) * kernel + k] * x[(n * channels + first + c) * length + at];
                        }
                    y[(n * outputs + o) * positions + p] = sum;
                }
        return y;
    }

    private static (double[] Output, double[] State) Gru(
        Dictionary<string, double[]> weights, double[] x, double[] h0, int batch, int time, int input, int hidden, int layers)
    {
        double Sigmoid(double v) => 1 / (1 + Math.Exp(-v));
        var sequence = x;
        var state = h0.ToArray();
        int width = input;
        for (int layer = 0; layer < layers; layer++)
        {
            double[] wi = weights[$"weight_ih_l{layer}"], wh = weights[$"weight_hh_l{layer}"];
            double[] bi = weights[$"bias_ih_l{layer}"], bh = weights[$"bias_hh_l{layer}"];
            var output = new double[batch * time * hidden];
            for (int n = 0; n < batch; n++)
            {
                var h = state[((layer * batch + n) * hidden)..((layer * batch + n + 1) * hidden)];
                for (int t = 0; t < time; t++)
                {
                    var previous = h.ToArray();
                    double FromInput(int row) => bi[row] + Enumerable.Range(0, width).Sum(i => wi[row * width + i] * sequence[(n * time + t) * width + i]);
                    double FromState(int row) => bh[row] + Enumerable.Range(0, hidden).Sum(i => wh[row * hidden + i] * previous[i]);
                    for (int k = 0; k < hidden; k++)
                    {
                        double r = Sigmoid(FromInput(k) + FromState(k));
                        double z = Sigmoid(FromInput(hidden + k) + FromState(hidden + k));
                        double candidate = Math.Tanh(FromInput(2 * hidden + k) + r * FromState(2 * hidden + k));
                        h[k] = (1 - z) * candidate + z * previous[k];
                        output[(n * time + t) * hidden + k] = h[k];
                    }
                }
                h.CopyTo(state, (layer * batch + n) * hidden);
            }
            (sequence, width) = (output, hidden);
        }
        return (sequence, state);
    }
}
