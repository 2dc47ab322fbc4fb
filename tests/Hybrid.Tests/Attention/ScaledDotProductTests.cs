using Hybrid.Attention;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

public class ScaledDotProductTests
{
    // float32 sums of at most 131 products, in another order than the reference's.
    private const double Tolerance = 1e-5;

    private static readonly AttentionMode[] Modes = [AttentionMode.Dense, AttentionMode.Chunked, AttentionMode.Online];

    public static MatrixTheoryData<string, AttentionMode> Golden => new(GoldenCases.Of("sdpa").Select(row => row.Data), Modes);

    [Theory]
    [MemberData(nameof(Golden))]
    public void EqualsTheReferenceImplementation(string name, AttentionMode mode)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("sdpa", name);
        var inputs = new[] { "q", "k", "v" }.Select(input => golden.Get("in." + input).requires_grad_(true)).ToArray();
        var options = new AttentionOptions { Mode = mode, ChunkSize = 6, Scale = golden.Flag("scale")!.Value.GetDouble() };
        var window = golden.Flag("window")?.GetInt64();
        var lengths = golden.Find("in.key_lengths")?.to_type(ScalarType.Int64).data<long>().ToArray();
        var isCausal = golden.Flag("causal")!.Value.GetBoolean();

        var output = lengths is null ? Plain() : OneByOne();
        TensorAssert.Close(golden.Get("out.o"), output, Tolerance, $"{name} o");
        golden.Loss(("o", output)).backward();
        for (var i = 0; i < 3; i++)
        {
            var input = new[] { "q", "k", "v" }[i];
            CloseOrZero(golden.Get("grad." + input), inputs[i].grad!, $"{name} gradient of {input}");
        }

        Tensor Plain()
        {
            var time = inputs[0].size(2);
            var visible = new KeyVisibility([inputs[1].size(2) - time], time, window, null, CPU, isCausal ? null : [time]);
            return ScaledDotProduct.Apply(inputs[0], inputs[1], inputs[2], visible, options, 0);
        }

        // The library has no mask for queries that are padding: here each query is a row of its own, at the position of the last key that it sees.
        Tensor OneByOne()
        {
            var (batch, heads, time) = (inputs[0].size(0), inputs[0].size(1), inputs[0].size(2));
            var starts = from row in Enumerable.Range(0, (int)batch)
                         from t in Enumerable.Range(0, (int)time)
                         select Math.Min(t, lengths![row] - 1);
            var visible = new KeyVisibility([.. starts], 1, null, null, CPU);
            var query = inputs[0].transpose(1, 2).reshape(batch * time, heads, 1, inputs[0].size(3));
            var mixed = ScaledDotProduct.Apply(query, Repeated(inputs[1]), Repeated(inputs[2]), visible, options, 0);
            return mixed.view(batch, time, heads, -1).transpose(1, 2);

            Tensor Repeated(Tensor x) => x.unsqueeze(1).expand(batch, time, x.size(1), x.size(2), x.size(3)).flatten(0, 1);
        }
    }

    /// <summary>
    /// A query that sees one key has no gradient, of which rounding leaves a trace. So the tolerance is of the largest element or of 1, the
    /// size of the inputs and cotangents.
    /// </summary>
    private static void CloseOrZero(Tensor expected, Tensor actual, string what)
    {
        Assert.Equal(expected.shape, actual.shape);
        TensorAssert.Close(cat([expected.flatten(), ones(1)]), cat([actual.flatten(), ones(1)]), Tolerance, what);
    }

    [Fact]
    public void EveryModeAgreesWithPlainArithmetic()
    {
        // One head of width 1 and two keys: scores 3 and -1 before scale 0.5 and cap 2, values 10 and 20.
        using var scope = NewDisposeScope();
        var (first, second) = (Math.Exp(2 * Math.Tanh(1.5 / 2)), Math.Exp(2 * Math.Tanh(-0.5 / 2)));
        var expected = ((first * 10) + (second * 20)) / (first + second);
        foreach (var mode in Modes)
        {
            var options = new AttentionOptions { Mode = mode, ChunkSize = 1, Scale = 0.5, SoftCap = 2 };
            var (key, value) = (Values.Tensor32([3, -1], 1, 1, 2, 1), Values.Tensor32([10, 20], 1, 1, 2, 1));
            var visible = new KeyVisibility([1], 1, null, null, CPU);
            Assert.Equal(expected, ScaledDotProduct.Apply(ones(1, 1, 1, 1), key, value, visible, options, 0).ToDouble(), 1e-5);
        }
    }

    public static TheoryData<AttentionMode, long, long?, double?, string> Shapes
    {
        get
        {
            var data = new TheoryData<AttentionMode, long, long?, double?, string>();
            foreach (var mode in new[] { AttentionMode.Chunked, AttentionMode.Online })
            {
                data.Add(mode, 1, null, null, "plain");
                data.Add(mode, 31, 5, null, "plain");
                data.Add(mode, 32, 1, 1.5, "plain");
                data.Add(mode, 33, 40, null, "plain");
                data.Add(mode, 100, null, null, "plain");
                data.Add(mode, 100, 9, null, "plain");
                data.Add(mode, 100, 50, 0.7, "plain");
                data.Add(mode, 100, null, null, "packed");
                data.Add(mode, 100, 9, 2, "packed");
                data.Add(mode, 100, null, 3, "rows apart");
                data.Add(mode, 70, 45, null, "rows apart");
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void ChunksEqualDense(AttentionMode mode, long time, long? window, double? cap, string rows)
    {
        var options = new AttentionOptions { SoftCap = cap };
        using var scope = NewDisposeScope();
        var dense = Run(options);
        var chunks = Run(options with { Mode = mode });
        foreach (var ((name, expected), (_, actual)) in dense.Zip(chunks))
        {
            CloseOrZero(expected, actual, name);
        }

        (string Name, Tensor Value)[] Run(AttentionOptions run)
        {
            IReadOnlyList<long> starts = rows == "rows apart" ? [3, 47] : [0];
            var keys = starts.Max() + time;
            var ids = rows == "packed" ? arange(time).ge(41).to_type(ScalarType.Int64).expand(2, time) : null;
            var inputs = new[] { Values.Normal(1, 2, 6, time, 8), Values.Normal(2, 2, 2, keys, 8), Values.Normal(3, 2, 2, keys, 5) };
            Array.ForEach(inputs, input => input.requires_grad_(true));
            var visible = new KeyVisibility(starts, time, window, ids, CPU);
            var output = ScaledDotProduct.Apply(inputs[0], inputs[1], inputs[2], visible, run, 0);
            (output * Values.Normal(4, 2, 6, time, 5)).sum().backward();
            return [("o", output), ("q", inputs[0].grad!), ("k", inputs[1].grad!), ("v", inputs[2].grad!)];
        }
    }

    [Theory]
    [InlineData(AttentionMode.Dense, 0)]
    [InlineData(AttentionMode.Chunked, 57)]
    [InlineData(AttentionMode.Online, 57)]
    public void ChunksThatNoQuerySeesAreNeverRead(AttentionMode mode, long firstRead)
    {
        // Queries 64..95 with window 8 see keys 57..95: a value that is not a number spoils them only where it is read.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        for (var key = 0L; key < 100; key++)
        {
            var value = zeros(1, 1, 100, 1);
            value.narrow(2, key, 1).fill_(double.NaN);
            var output = ScaledDotProduct.Apply(
                Values.Normal(1, 1, 1, 100, 4), Values.Normal(2, 1, 1, 100, 4), value,
                new KeyVisibility([0], 100, 8, null, CPU), new AttentionOptions { Mode = mode }, 0);
            var isRead = !output.narrow(2, 64, 32).isfinite().all().ToBoolean();
            Assert.True(isRead == (key >= firstRead && (mode == AttentionMode.Dense || key < 96)), $"{mode}, key {key}: read = {isRead}");
        }
    }

    [Theory]
    [InlineData(AttentionMode.Dense)]
    [InlineData(AttentionMode.Chunked)]
    [InlineData(AttentionMode.Online)]
    public void LargeScoresStayFinite(AttentionMode mode)
    {
        using var scope = NewDisposeScope();
        var query = (Values.Normal(1, 1, 2, 50, 4) * 1e4).requires_grad_(true);
        var key = Values.Normal(2, 1, 2, 50, 4) * 1e4;
        var value = Values.Normal(3, 1, 2, 50, 4);
        var visible = new KeyVisibility([0], 50, null, null, CPU);
        var output = ScaledDotProduct.Apply(query, key, value, visible, new AttentionOptions { Mode = mode, ChunkSize = 7 }, 0);
        output.sum().backward();
        Assert.True(output.isfinite().all().ToBoolean());
        Assert.True(query.grad!.isfinite().all().ToBoolean());
        Assert.True(output.abs().max().ToDouble() <= value.abs().max().ToDouble() * 1.00001);
    }

    [Theory]
    [InlineData(AttentionMode.Dense)]
    [InlineData(AttentionMode.Chunked)]
    [InlineData(AttentionMode.Online)]
    public void GradientsAgreeWithFiniteDifferences(AttentionMode mode)
    {
        using var scope = NewDisposeScope();
        var visible = new KeyVisibility([2, 4], 5, 4, null, CPU);
        var options = new AttentionOptions { Mode = mode, ChunkSize = 3, SoftCap = 1.5, Scale = 0.8 };
        var inputs = new[] { Values.Normal(1, 2, 4, 5, 3), Values.Normal(2, 2, 2, 9, 3), Values.Normal(3, 2, 2, 9, 2) };
        FiniteDifferences.Check(
            x => [ScaledDotProduct.Apply(x[0], x[1], x[2], visible, options, 0)],
            [.. inputs.Select(input => input.to_type(ScalarType.Float64))]);
    }

    [Theory]
    [InlineData(AttentionMode.Dense)]
    [InlineData(AttentionMode.Chunked)]
    [InlineData(AttentionMode.Online)]
    public void DroppedWeightsKeepTheMean(AttentionMode mode)
    {
        // 4000 rows with equal weights and values of 1: each row is 1 in the mean, with a variance of p / (1 - p) / 20.
        using var scope = NewDisposeScope();
        manual_seed(5);
        var visible = new KeyVisibility([19], 1, null, null, CPU);
        var options = new AttentionOptions { Mode = mode, ChunkSize = 8 };
        var output = ScaledDotProduct.Apply(zeros(4000, 1, 1, 4), zeros(4000, 1, 20, 4), ones(4000, 1, 20, 1), visible, options, 0.2);
        Assert.Equal(1, output.mean().ToDouble(), 0.01);
        Assert.Equal(Math.Sqrt(0.2 / 0.8 / 20), output.std().ToDouble(), 0.01);
    }
}
