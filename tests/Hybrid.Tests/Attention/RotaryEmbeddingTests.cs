using Hybrid.Attention;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Attention;

public class RotaryEmbeddingTests
{
    // Reference and library take cosines of float32 angles of up to about 1000 radians, each of which is rounded by up to 3e-5.
    private const double Tolerance = 5e-5;

    /// <summary>The cases without a scaling of the frequencies, which the library does not offer.</summary>
    public static TheoryData<string> Cases => new(
        GoldenCases.Of("rope").Select(row => row.Data).Where(name =>
        {
            using var golden = GoldenCases.Load("rope", name);
            return golden.Flag("rope")!.Value.GetProperty("rope_type").GetString() == "default";
        }));

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("rope", name);
        var flags = golden.Flag("rope")!.Value;
        var share = flags.TryGetProperty("partial_rotary_factor", out var factor) ? factor.GetDouble() : 1;
        var rotary = new RotaryEmbedding(
            (long)(golden.Flag("head_dim")!.Value.GetInt64() * share), flags.GetProperty("rope_theta").GetDouble());
        var angles = rotary.Angles(golden.Get("in.position_ids"));
        var (query, key) = (golden.Get("in.q").requires_grad_(true), golden.Get("in.k").requires_grad_(true));

        var (turnedQuery, turnedKey) = (rotary.Rotate(query, angles), rotary.Rotate(key, angles));
        TensorAssert.Close(golden.Get("out.q"), turnedQuery, Tolerance, $"{name} q");
        TensorAssert.Close(golden.Get("out.k"), turnedKey, Tolerance, $"{name} k");

        golden.Loss(("q", turnedQuery), ("k", turnedKey)).backward();
        TensorAssert.Close(golden.Get("grad.q"), query.grad!, Tolerance, $"{name} gradient of q");
        TensorAssert.Close(golden.Get("grad.k"), key.grad!, Tolerance, $"{name} gradient of k");
    }

    [Fact]
    public void TurnsPairsByPositionTimesFrequency()
    {
        using var scope = NewDisposeScope();
        var rotary = new RotaryEmbedding(4, 100);
        var x = Values.Tensor32([1, 2, 3, 4, 5], 1, 1, 1, 5);
        var y = Values.Of(rotary.Rotate(x, rotary.Angles(tensor(new long[] { 3 }).unsqueeze(0))));

        // Channel 0 turns with channel 2 by 3 rad, channel 1 with channel 3 by 3 / sqrt(100) rad; channel 4 stays.
        Assert.Equal(Math.Cos(3) - (3 * Math.Sin(3)), y[0], 1e-6);
        Assert.Equal((2 * Math.Cos(0.3)) - (4 * Math.Sin(0.3)), y[1], 1e-6);
        Assert.Equal(Math.Sin(3) + (3 * Math.Cos(3)), y[2], 1e-6);
        Assert.Equal((2 * Math.Sin(0.3)) + (4 * Math.Cos(0.3)), y[3], 1e-6);
        Assert.Equal(5, y[4]);
    }

    [Fact]
    public void ScoresDependOnTheDistanceAlone()
    {
        using var scope = NewDisposeScope();
        var rotary = new RotaryEmbedding(8);
        var (query, key) = (Values.Normal(1, 1, 1, 1, 8), Values.Normal(2, 1, 1, 1, 8));
        var near = Score(17, 5);
        Assert.Equal(near, Score(112, 100), 1e-4);
        Assert.NotEqual(near, Score(17, 6), 1e-2);

        double Score(long queryPosition, long keyPosition) => (At(query, queryPosition) * At(key, keyPosition)).sum().ToDouble();

        Tensor At(Tensor x, long position) => rotary.Rotate(x, rotary.Angles(tensor(new[] { position }).unsqueeze(0)));
    }

    [Fact]
    public void EachRowHasItsOwnPositions()
    {
        using var scope = NewDisposeScope();
        var rotary = new RotaryEmbedding(6);
        var x = Values.Normal(3, 2, 3, 4, 6);
        var positions = tensor(new long[] { 0, 1, 2, 3, 40, 41, 42, 43 }).view(2, 4);
        var together = rotary.Rotate(x, rotary.Angles(positions));
        for (var row = 0; row < 2; row++)
        {
            var alone = rotary.Rotate(x.narrow(0, row, 1), rotary.Angles(positions.narrow(0, row, 1)));
            TensorAssert.Identical(alone, together.narrow(0, row, 1), $"row {row}");
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-2)]
    [InlineData(5)]
    public void TheRotaryWidthMustBeEvenAndPositive(long width)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new RotaryEmbedding(width));
        Assert.StartsWith($"RotaryEmbedding: the rotary width must be even and positive; got {width}.", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new RotaryEmbedding(4, 0));
    }
}
