using System.Text.Json;
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

    public static TheoryData<string> Cases => GoldenCases.Of("rope");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("rope", name);
        var flags = golden.Flag("rope")!.Value;
        var share = flags.TryGetProperty("partial_rotary_factor", out var factor) ? factor.GetDouble() : 1;
        var width = (long)(golden.Flag("head_dim")!.Value.GetInt64() * share);
        var rotary = new RotaryEmbedding(width, flags.GetProperty("rope_theta").GetDouble(), ScalingOf(flags));
        var angles = rotary.Angles(golden.Get("in.position_ids"));
        TensorAssert.Close(golden.Get("out.cos").narrow(-1, 0, width / 2), angles.Cos.squeeze(1), Tolerance, $"{name} cos");
        TensorAssert.Close(golden.Get("out.sin").narrow(-1, 0, width / 2), angles.Sin.squeeze(1), Tolerance, $"{name} sin");
        var (query, key) = (golden.Get("in.q").requires_grad_(true), golden.Get("in.k").requires_grad_(true));

        var (turnedQuery, turnedKey) = (rotary.Rotate(query, angles), rotary.Rotate(key, angles));
        TensorAssert.Close(golden.Get("out.q"), turnedQuery, Tolerance, $"{name} q");
        TensorAssert.Close(golden.Get("out.k"), turnedKey, Tolerance, $"{name} k");

        golden.Loss(("q", turnedQuery), ("k", turnedKey)).backward();
        TensorAssert.Close(golden.Get("grad.q"), query.grad!, Tolerance, $"{name} gradient of q");
        TensorAssert.Close(golden.Get("grad.k"), key.grad!, Tolerance, $"{name} gradient of k");
    }

    private static RopeScaling ScalingOf(JsonElement flags)
    {
        var scaling = new RopeScaling
        {
            Kind = flags.GetProperty("rope_type").GetString() switch
            {
                "default" => RopeScalingKind.None,
                "linear" => RopeScalingKind.Linear,
                "llama3" => RopeScalingKind.Llama3,
                "yarn" => RopeScalingKind.Yarn,
                var other => throw new InvalidOperationException($"unknown rope_type {other}"),
            },
            OriginalMaxPositionEmbeddings = flags.TryGetProperty("original_max_position_embeddings", out var length) ? length.GetInt64() : null,
        };
        return scaling with
        {
            Factor = Number("factor", scaling.Factor),
            LowFreqFactor = Number("low_freq_factor", scaling.LowFreqFactor),
            HighFreqFactor = Number("high_freq_factor", scaling.HighFreqFactor),
        };

        double Number(string name, double standard) => flags.TryGetProperty(name, out var value) ? value.GetDouble() : standard;
    }

    /// <summary>
    /// Frequencies of rotary width 8 and base 10, 10^(-i/4): the waves turn 100 / (2 pi) = 15.92, 8.95, 5.03 and 2.83 times within 100
    /// positions.
    /// </summary>
    public static TheoryData<RopeScaling, double, double[]> Scalings => new()
    {
        { new RopeScaling { Kind = RopeScalingKind.None, Factor = 5 }, 1, [1, 1, 1, 1] },
        { new RopeScaling { Kind = RopeScalingKind.Linear, Factor = 5 }, 1, [0.2, 0.2, 0.2, 0.2] },

        // Kept above 9 turns, divided below 3, linear in the turns between: (8.950 - 3) / 6 and (5.033 - 3) / 6 are kept.
        {
            new RopeScaling
            {
                Kind = RopeScalingKind.Llama3, Factor = 5, LowFreqFactor = 3, HighFreqFactor = 9, OriginalMaxPositionEmbeddings = 100,
            },
            1,
            [1, 0.2 + (0.8 * 0.99166), 0.2 + (0.8 * 0.33882), 0.2]
        },

        // 14 turns are reached at channel 0.22, 4 at 2.40; rounded outwards the ramp runs from 0 to 3.
        {
            new RopeScaling { Kind = RopeScalingKind.Yarn, Factor = 5, BetaFast = 14, BetaSlow = 4, OriginalMaxPositionEmbeddings = 100 },
            1.160944,
            [1, 1 - (0.8 / 3), 1 - (1.6 / 3), 0.2]
        },
    };

    [Theory]
    [MemberData(nameof(Scalings))]
    public void ScalingsChangeFrequenciesAndAmplitude(RopeScaling scaling, double amplitude, double[] factors)
    {
        using var scope = NewDisposeScope();
        var (cos, sin) = new RotaryEmbedding(8, 10, scaling).Angles(tensor(new long[] { 1 }).unsqueeze(0));
        for (var i = 0; i < 4; i++)
        {
            var angle = factors[i] * Math.Pow(10, -i / 4.0);
            Assert.Equal(amplitude * Math.Cos(angle), Values.Of(cos)[i], 1e-5);
            Assert.Equal(amplitude * Math.Sin(angle), Values.Of(sin)[i], 1e-5);
        }
    }

    [Fact]
    public void ScalingsOutOfRangeAreNamed()
    {
        Rejects("RopeScaling.Factor must be at least 1; got 0.5.", new() { Factor = 0.5 });
        Rejects("RopeScaling.OriginalMaxPositionEmbeddings must be at least 1; got 0.", new() { OriginalMaxPositionEmbeddings = 0 });
        Rejects("RopeScaling: OriginalMaxPositionEmbeddings must be set for Llama3; got none.", new() { Kind = RopeScalingKind.Llama3 });
        Rejects("RopeScaling: OriginalMaxPositionEmbeddings must be set for Yarn; got none.", new() { Kind = RopeScalingKind.Yarn });
        Rejects("RopeScaling.LowFreqFactor must be positive; got 0.", new() { LowFreqFactor = 0 });
        Rejects("RopeScaling.HighFreqFactor must be above LowFreqFactor, 4; got 4.", new() { LowFreqFactor = 4 });
        Rejects("RopeScaling.BetaSlow must be positive; got 0.", new() { BetaSlow = 0 });
        Rejects("RopeScaling.BetaFast must be above BetaSlow, 1; got 1.", new() { BetaFast = 1 });

        static void Rejects(string text, RopeScaling scaling)
        {
            var error = Assert.ThrowsAny<ArgumentException>(() => new RotaryEmbedding(8, 10, scaling));
            Assert.StartsWith(text, error.Message, StringComparison.Ordinal);
        }
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
