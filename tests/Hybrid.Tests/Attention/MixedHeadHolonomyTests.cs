using Hybrid.Attention;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

/// <summary>The rotations of holonomy heads: what they keep, and the scores that they give.</summary>
public class MixedHeadHolonomyTests
{
    private const int Width = 12;
    private const int HeadWidth = 4;
    private const double Tolerance = 1e-5;

    [Theory]
    [InlineData(0.02)]
    [InlineData(1)]
    [InlineData(5)]
    public void RotationsAreOrthogonal(double deviation)
    {
        using var rotation = Rotation(HolonomyKind.Orthogonal, deviation);
        using var scope = NewDisposeScope();
        var turns = rotation.Rotations(ScalarType.Float32);
        var identity = eye(HeadWidth).unsqueeze(0).expand(2, HeadWidth, HeadWidth);
        TensorAssert.Close(identity, turns.transpose(1, 2).matmul(turns), Tolerance, "R^T R");
        Assert.True(TensorAssert.RelativeError(identity, turns) > 1e-3, "the rotation must turn something, or the test says nothing");
    }

    [Theory]
    [InlineData(HolonomyKind.Orthogonal)]
    [InlineData(HolonomyKind.Transport)]
    [InlineData(HolonomyKind.Path)]
    public void LengthsAreKept(HolonomyKind kind)
    {
        using var rotation = Rotation(kind, 0.5);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, input) = Inputs();
        var (turnedQuery, turnedKey, _) = rotation.Turn(query, key, input, [0], null, null);
        TensorAssert.Close(query.square().sum(-1), turnedQuery.square().sum(-1), Tolerance, "queries");
        TensorAssert.Close(key.square().sum(-1), turnedKey.square().sum(-1), Tolerance, "keys");
    }

    [Fact]
    public void TransportCarriesTheKeyOverTheDistance()
    {
        using var rotation = Rotation(HolonomyKind.Transport, 0.5);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, input) = Inputs();
        var (turnedQuery, turnedKey, _) = rotation.Turn(query, key, input, [0], null, null);
        var scores = turnedQuery.matmul(turnedKey.transpose(-2, -1));

        // q_t^T exp((t - s) A) k_s by a sum of the exponential series.
        var generator = Generator(rotation);
        var (queries, keys, time) = (Values.Of(query), Values.Of(key), (int)query.size(2));
        var expected = new List<double>();
        for (var row = 0; row < 2 * 2; row++)
        {
            for (var t = 0; t < time; t++)
            {
                for (var s = 0; s < time; s++)
                {
                    var carried = Exponential(generator[row % 2], t - s, keys.AsSpan(((row * time) + s) * HeadWidth, HeadWidth).ToArray());
                    expected.Add(carried.Select((value, i) => value * queries[(((row * time) + t) * HeadWidth) + i]).Sum());
                }
            }
        }

        TensorAssert.Close(Values.Tensor32([.. expected], scores.shape), scores, Tolerance, "scores");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(37)]
    [InlineData(2040)]
    public void TransportDoesNotDependOnTheStart(long shift)
    {
        using var rotation = Rotation(HolonomyKind.Transport, 0.5);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, input) = Inputs();
        TensorAssert.Close(Scores([0, 0]), Scores([shift, shift]), Tolerance, $"shifted by {shift}");
        TensorAssert.Close(Scores([0, 0]), Scores([3, shift]), Tolerance, "each row by another");

        Tensor Scores(long[] starts)
        {
            var (turnedQuery, turnedKey, _) = rotation.Turn(query, key, input, starts, null, null);
            return turnedQuery.matmul(turnedKey.transpose(-2, -1));
        }
    }

    [Fact]
    public void PathsTurnByWhatLiesBetween()
    {
        using var rotation = Rotation(HolonomyKind.Path, 0.5);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var (query, key, input) = Inputs();
        var (turnedQuery, turnedKey, angles) = rotation.Turn(query, key, input, [0], null, null);
        var scores = Values.Of(turnedQuery.matmul(turnedKey.transpose(-2, -1)));
        var steps = Values.Of(input.matmul(rotation.parameters().Single().transpose(0, 1)));
        var (queries, keys, time) = (Values.Of(query), Values.Of(key), (int)query.size(2));
        const int turning = 2 * HeadWidth / 2;
        for (var row = 0; row < 2 * 2; row++)
        {
            for (var t = 0; t < time; t++)
            {
                for (var s = 0; s <= t; s++)
                {
                    var expected = 0.0;
                    for (var i = 0; i < HeadWidth / 2; i++)
                    {
                        var angle = Enumerable.Range(s + 1, t - s).Sum(u => steps[((((row / 2) * time) + u) * turning) + ((row % 2) * HeadWidth / 2) + i]);
                        var (a, b) = (queries[At(row, t, i)], queries[At(row, t, i + (HeadWidth / 2))]);
                        var (c, d) = (keys[At(row, s, i)], keys[At(row, s, i + (HeadWidth / 2))]);
                        expected += (((a * c) + (b * d)) * Math.Cos(angle)) + (((a * d) - (b * c)) * Math.Sin(angle));
                    }

                    Assert.Equal(expected, scores[(((row * time) + t) * time) + s], 4);
                }
            }
        }

        Assert.Equal([2, turning], angles!.shape);
        int At(int row, int t, int channel) => (((row * time) + t) * HeadWidth) + channel;
    }

    [Theory]
    [InlineData(HolonomyKind.Orthogonal)]
    [InlineData(HolonomyKind.Transport)]
    [InlineData(HolonomyKind.Path)]
    public void WithoutCurvatureTheyAreStandardHeads(HolonomyKind kind)
    {
        using var turning = new MixedHeadAttention(
            Width, new MixedHeadOptions { HeadTypes = MixedHeadOptions.Mix(1, 0, 2), Holonomy = kind });
        using var standard = new MixedHeadAttention(Width, new MixedHeadOptions { HeadTypes = MixedHeadOptions.Mix(3, 0, 0) });
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        standard.load_state_dict(turning.state_dict(), strict: false);
        var x = Values.Normal(4, 2, 19, Width);
        Assert.True(TensorAssert.RelativeError(standard.call(x), turning.call(x)) > 1e-4, "the initial rotation must turn something");
        turning.ParametersOf(HeadType.Holonomy).Single().zero_();
        TensorAssert.Close(standard.call(x), turning.call(x), 1e-6, "C = 0");
    }

    private static HolonomyRotation Rotation(HolonomyKind kind, double deviation)
    {
        manual_seed(5);
        var rotation = new HolonomyRotation(Width, 2, HeadWidth, kind, isFree: false);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var parameter = rotation.parameters().Single();
        parameter.copy_(randn(parameter.shape) * deviation);
        return rotation;
    }

    private static (Tensor Query, Tensor Key, Tensor Input) Inputs() =>
        (Values.Normal(1, 2, 2, 9, HeadWidth), Values.Normal(2, 2, 2, 9, HeadWidth), Values.Normal(3, 2, 9, Width));

    /// <summary>A = (C - C^T) / 2 of each head, [K][K].</summary>
    private static double[][][] Generator(HolonomyRotation rotation)
    {
        var c = Values.Of(rotation.parameters().Single());
        return [.. Enumerable.Range(0, 2).Select(head => Enumerable.Range(0, HeadWidth).Select(i => Enumerable.Range(0, HeadWidth).Select(j =>
            (c[(((head * HeadWidth) + i) * HeadWidth) + j] - c[(((head * HeadWidth) + j) * HeadWidth) + i]) / 2).ToArray()).ToArray())];
    }

    /// <summary>exp(distance A) v by its power series.</summary>
    private static double[] Exponential(double[][] a, double distance, double[] v)
    {
        var (sum, term) = ((double[])v.Clone(), v);
        for (var n = 1; n < 120; n++)
        {
            term = [.. a.Select(row => row.Select((value, j) => value * term[j]).Sum() * distance / n)];
            sum = [.. sum.Zip(term, (x, y) => x + y)];
        }

        return sum;
    }
}
