using Hybrid.Attention;
using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class AttentionStepTests
{
    // Scores are float32 sums of up to 100 products; the weights of up to 1,100 keys add up.
    private const double Tolerance = 3e-6;

    // Results have 8 bits.
    private const double BFloat16Tolerance = 1.0 / 256;

    /// <summary>Heads, groups, tokens, keys, and the widths of keys and values around registers; caches around blocks of 64 and units of 512 keys.</summary>
    [Theory]
    [InlineData(1, 1, 1, 2, 1, 1)]
    [InlineData(2, 1, 1, 3, 7, 2)]
    [InlineData(4, 4, 1, 63, 16, 16)]
    [InlineData(4, 2, 2, 65, 17, 31)]
    [InlineData(6, 2, 3, 130, 33, 64)]
    [InlineData(8, 1, 8, 511, 100, 65)]
    [InlineData(3, 3, 1, 512, 64, 33)]
    [InlineData(2, 2, 5, 1100, 15, 130)]
    public void EqualsPlainArithmetic(int heads, int groups, int time, int keys, int keyWidth, int valueWidth)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var (window, cap) in new (long?, double?)[] { (null, null), (3, null), (70, 0.8), (null, 30) })
        {
            // Rows whose sequences have different lengths.
            var (query, key, value) = Inputs(2, heads, groups, time, keys, keyWidth, valueWidth);
            long[] starts = [keys - time, (keys - time) / 3];
            var options = new AttentionOptions { SoftCap = cap, Scale = 0.3 };
            var visible = new KeyVisibility(starts, time, window, null, CPU);
            Assert.True(AttentionStep.CanRun(query, key, value, visible));
            TensorAssert.Close(Naive(query, key, value, starts, window, options), Run(query, key, value), Tolerance, $"window {window}, cap {cap}");

            Tensor[] stored = [.. new[] { query, key, value }.Select(tensor => tensor.to_type(ScalarType.BFloat16))];
            var mixed = Run(stored[0], stored[1], stored[2]);
            Assert.Equal(ScalarType.BFloat16, mixed.dtype);
            TensorAssert.Close(
                Naive(stored[0].to_type(ScalarType.Float32), stored[1].to_type(ScalarType.Float32), stored[2].to_type(ScalarType.Float32), starts, window, options), mixed, BFloat16Tolerance, "bfloat16");

            Tensor Run(Tensor q, Tensor k, Tensor v) => ScaledDotProduct.Apply(q, k, v, visible, options, dropout: 0);
        }
    }

    [Fact]
    public void ReadsACacheAndQueriesWhereTheyAre()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, value) = Inputs(2, 4, 2, 2, 40, 18, 18);
        var visible = new KeyVisibility([38], 2, null, null, CPU);
        var expected = AttentionStep.Apply(query, key, value, visible, new AttentionOptions());

        // Queries as a projection leaves them, slots of a larger buffer, and keys whose elements are apart.
        var asking = query.transpose(1, 2).contiguous().transpose(1, 2);
        var (buffer, columns) = (zeros(2, 2, 64, 18), key.transpose(2, 3).contiguous().transpose(2, 3));
        buffer.narrow(2, 0, 40).copy_(value);
        TensorAssert.Identical(
            expected, AttentionStep.Apply(asking, columns, buffer.narrow(2, 0, 40), visible, new AttentionOptions()), "strided");
    }

    [Fact]
    public void NoKeyThatAQueryDoesNotSeeIsRead()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, value) = Inputs(1, 2, 1, 3, 200, 16, 16);
        var visible = new KeyVisibility([150], 3, 20, null, CPU);
        for (var slot = 100L; slot < 200; slot++)
        {
            var spoiled = value.clone();
            spoiled.narrow(2, slot, 1).fill_(double.NaN);
            var mixed = AttentionStep.Apply(query, key, spoiled, visible, new AttentionOptions());
            for (var t = 0; t < 3; t++)
            {
                var sees = slot > 150 + t - 20 && slot <= 150 + t;
                Assert.Equal(sees, mixed.select(2, t).isnan().all().ToBoolean());
                Assert.Equal(sees, mixed.select(2, t).isnan().any().ToBoolean());
            }
        }
    }

    [Fact]
    public void LargeScoresStayFiniteAndNotANumberPasses()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, value) = Inputs(1, 2, 1, 1, 600, 16, 16);
        var visible = new KeyVisibility([599], 1, null, null, CPU);
        var largest = AttentionStep.Apply(query * 1e6, key, value, visible, new AttentionOptions());
        Assert.True(largest.isfinite().all().ToBoolean());
        Assert.True(largest.abs().max().ToDouble() <= value.abs().max().ToDouble() * 1.00001);
        query[0, 1, 0, 3] = float.NaN;
        var mixed = AttentionStep.Apply(query, key, value, visible, new AttentionOptions());
        Assert.True(mixed.select(1, 1).isnan().all().ToBoolean());
        Assert.True(mixed.select(1, 0).isfinite().all().ToBoolean());
    }

    [Fact]
    public void TheNumberOfThreadsDoesNotChangeABit()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, value) = Inputs(2, 8, 4, 2, 1500, 64, 64);
        var visible = new KeyVisibility([1498, 700], 2, null, null, CPU);
        ThreadCount.ChangesNothing(() => [AttentionStep.Apply(query, key, value, visible, new AttentionOptions())]);
    }

    [Fact]
    public void LeavesOtherCallsToTensorOperations()
    {
        using var scope = NewDisposeScope();
        var (query, key, value) = Inputs(2, 2, 1, 2, 6, 4, 4);
        var visible = new KeyVisibility([4], 2, null, null, CPU);
        Assert.False(AttentionStep.CanRun(query, key, value, visible));
        using var guard = no_grad();
        Assert.True(AttentionStep.CanRun(query, key, value, visible));
        Assert.False(AttentionStep.CanRun(query.to_type(ScalarType.Float64), key.to_type(ScalarType.Float64), value.to_type(ScalarType.Float64), visible));
        Assert.False(AttentionStep.CanRun(query.to_type(ScalarType.BFloat16), key, value, visible));
        Assert.False(AttentionStep.CanRun(zeros(2, 2, 9, 4), key, value, visible));
        Assert.False(AttentionStep.CanRun(query, key.narrow(2, 0, 2), value.narrow(2, 0, 2), new KeyVisibility([0], 2, null, null, CPU)));
        Assert.False(AttentionStep.CanRun(query, key, value, new KeyVisibility([0], 2, null, zeros(2, 2, dtype: ScalarType.Int64), CPU)));
        Assert.False(AttentionStep.CanRun(query, key, value, new KeyVisibility([0], 2, null, null, CPU, [2, 0])));
    }

    private static (Tensor Query, Tensor Key, Tensor Value) Inputs(
        int batch, int heads, int groups, int time, int keys, int keyWidth, int valueWidth) =>
        (Values.Normal(1, batch, heads, time, keyWidth), Values.Normal(2, batch, groups, keys, keyWidth), Values.Normal(3, batch, groups, keys, valueWidth));

    /// <summary>Query by query, over the keys that it sees, in double precision.</summary>
    private static Tensor Naive(Tensor query, Tensor key, Tensor value, long[] starts, long? window, AttentionOptions options)
    {
        var (batch, heads, time) = (query.size(0), query.size(1), query.size(2));
        var rows = new List<Tensor>();
        for (var row = 0; row < batch; row++)
        {
            for (var head = 0; head < heads; head++)
            {
                for (var t = 0; t < time; t++)
                {
                    var group = head * key.size(1) / heads;
                    var end = starts[row] + t + 1;
                    var first = Math.Max(0, end - (window ?? end));
                    var (keys, values) = (key[row, group].narrow(0, first, end - first).to_type(ScalarType.Float64), value[row, group].narrow(0, first, end - first).to_type(ScalarType.Float64));
                    var scores = keys.mv(query[row, head, t].to_type(ScalarType.Float64)) * options.Scale!.Value;
                    scores = options.SoftCap is { } cap ? (scores / cap).tanh() * cap : scores;
                    rows.Add(values.t().mv(scores.softmax(0)));
                }
            }
        }

        return stack(rows).view(batch, heads, time, -1);
    }
}
