using Hybrid.Attention;
using Hybrid.Mixers;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

public class TransPointMixerTests
{
    // float32 against double arithmetic over 23 tokens.
    private const double Tolerance = 1e-5;
    private const long Width = 6;

    public static TheoryData<TransPointOptions> Variants => new(
        new TransPointOptions { TransPoint = 9, DState = 4, HeadDim = 3 },
        new TransPointOptions { TransPoint = 22, DState = 6, HeadDim = 3, NGroups = 2, ChunkSize = 4 },
        new TransPointOptions { TransPoint = 23, DState = 6, HeadDim = 2, NGroups = 1, UseBias = true },
        new TransPointOptions { TransPoint = 1, DState = 3, HeadDim = 12, UseRope = false, DConv = 1, UseConvBias = false },
        new TransPointOptions { TransPoint = 0, DState = 2, HeadDim = 9, ExpandFactor = 3, DConv = 2, NormEps = 0.1 },
        new TransPointOptions { TransPoint = 14, DState = 8, HeadDim = 6, RopeTheta = 50, AttentionMode = AttentionMode.Chunked, AttentionChunkSize = 5 });

    [Theory]
    [MemberData(nameof(Variants))]
    public void EqualsATokenLoop(TransPointOptions options)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(options);
        var x = Values.Normal(6, 1, 23, Width);
        var (expected, _) = new NaiveTransPoint(mixer, options).Run(Values.Of(x));
        TensorAssert.Close(Values.Tensor32(expected, 1, 23, Width), mixer.call(x), Tolerance, "y");
    }

    [Theory]
    [InlineData(9)]
    [InlineData(10)]
    [InlineData(23)]
    public void TheStateAfterTheTransPointIsThatOfTheRecurrence(long tokens)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var options = new TransPointOptions { TransPoint = 9, DState = 4, HeadDim = 3, NGroups = 2 };
        using var mixer = Make(options);
        var x = Values.Normal(6, 1, tokens, Width);
        var (_, expected) = new NaiveTransPoint(mixer, options).Run(Values.Of(x));
        foreach (var chunk in new[] { 1, 4, tokens })
        {
            using var state = (TransPointState)mixer.CreateState(1);
            for (var t = 0L; t < tokens; t += chunk)
            {
                mixer.forward(x.narrow(1, t, Math.Min(chunk, tokens - t)), new MixerContext { State = state });
            }

            TensorAssert.Close(Values.Tensor32(expected, 1, 4, 3, 4), state.Recurrent, Tolerance, $"in chunks of {chunk}");
        }
    }

    // float64 to its own precision, which the float32 angles of the rotary embedding must not limit; bfloat16 has 8 bits of mantissa.
    [Theory]
    [InlineData(ScalarType.Float64, 1e-12)]
    [InlineData(ScalarType.BFloat16, 0.03)]
    public void CachedKeysMakeTheSameStateInOtherPrecisions(ScalarType type, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(new TransPointOptions { TransPoint = 9, DState = 4, HeadDim = 3 });
        using var recurrent = Make(new TransPointOptions { TransPoint = 0, DState = 4, HeadDim = 3 });
        recurrent.load_state_dict(mixer.state_dict());
        mixer.to(type);
        recurrent.to(type);
        var x = Values.Normal(6, 2, 9, Width).to_type(type);
        using var state = (TransPointState)mixer.CreateState(2);
        using var expected = (TransPointState)recurrent.CreateState(2);
        mixer.forward(x.narrow(1, 0, 4), new MixerContext { State = state });
        mixer.forward(x.narrow(1, 4, 5), new MixerContext { State = state });
        recurrent.forward(x, new MixerContext { State = expected });
        TensorAssert.Close(expected.Recurrent, state.Recurrent, tolerance, "the state at the point");
    }

    [Fact]
    public void APointAtZeroIsTheMamba2Mixer()
    {
        using var scope = NewDisposeScope();
        using var mixer = Make(new TransPointOptions { TransPoint = 0, DState = 4, HeadDim = 3, NGroups = 2 });
        using var mamba = new Mamba2Mixer(Width, new Mamba2Options { DState = 4, HeadDim = 3, NGroups = 2 });
        mamba.load_state_dict(mixer.state_dict());
        var x = Values.Normal(6, 2, 70, Width);
        var (expected, y) = (mamba.call(x), mixer.call(x));
        TensorAssert.Identical(expected, y, "y");
        var upstream = Values.Normal(7, 2, 70, Width);
        (expected * upstream).sum().backward();
        (y * upstream).sum().backward();
        foreach (var (name, parameter) in mixer.named_parameters())
        {
            TensorAssert.Identical(mamba.get_parameter(name)!.grad!, parameter.grad!, name);
        }
    }

    [Fact]
    public void AnyPointFromTheLengthOnIsAttentionAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var atTheEnd = Make(new TransPointOptions { TransPoint = 20, DState = 4, HeadDim = 3 });
        using var beyond = Make(new TransPointOptions { TransPoint = 8192, DState = 4, HeadDim = 3 });
        var x = Values.Normal(6, 2, 20, Width);
        var expected = beyond.call(x);
        TensorAssert.Identical(expected, atTheEnd.call(x), "y");
        beyond.get_parameter("A_log")!.add_(1);
        beyond.get_parameter("D")!.add_(1);
        TensorAssert.Identical(expected, beyond.call(x), "with another state space");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void GradientsThroughBothPartsEqualFiniteDifferences(bool stateful)
    {
        using var scope = NewDisposeScope();
        using var mixer = Make(new TransPointOptions { TransPoint = 5, DState = 4, HeadDim = 3, NGroups = 2 });
        mixer.to(ScalarType.Float64);
        var x = Values.Normal(6, 2, 9, Width).to_type(ScalarType.Float64);
        FiniteDifferences.Check(inputs => [Run(inputs[0])], [x]);

        mixer.zero_grad();
        var upstream = Values.Normal(8, 2, 9, Width).to_type(ScalarType.Float64);
        (Run(x) * upstream).sum().backward();
        using var guard = no_grad();
        foreach (var (name, parameter) in mixer.named_parameters())
        {
            const double step = 1e-6;
            var direction = Values.Normal(9, parameter.shape).to_type(ScalarType.Float64);
            parameter.add_(direction * step);
            var above = (Run(x) * upstream).sum().ToDouble();
            parameter.add_(direction * (-2 * step));
            var below = (Run(x) * upstream).sum().ToDouble();
            parameter.add_(direction * step);
            Assert.Equal((parameter.grad! * direction).sum().ToDouble(), (above - below) / (2 * step), 1e-6);
        }

        // From an empty state the whole prefix is of this call, so the gradients pass the rotation, the cache and the converter.
        Tensor Run(Tensor input)
        {
            using var state = mixer.CreateState(2);
            return stateful ? mixer.forward(input, new MixerContext { State = state }) : mixer.call(input);
        }
    }

    [Fact]
    public void PackedSequencesEachHaveTheirOwnPoint()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(new TransPointOptions { TransPoint = 4, DState = 4, HeadDim = 3 });
        var x = Values.Normal(6, 1, 20, Width);
        long[] lengths = [3, 9, 4, 1, 3];
        var ids = tensor(lengths.SelectMany((length, id) => Enumerable.Repeat((long)id, (int)length)).ToArray()).unsqueeze(0);
        var packed = mixer.forward(x, new MixerContext { SequenceIds = ids });
        var first = 0L;
        foreach (var length in lengths)
        {
            TensorAssert.Close(mixer.call(x.narrow(1, first, length)), packed.narrow(1, first, length), Tolerance, $"the sequence at {first}");
            first += length;
        }
    }

    [Fact]
    public void RowsCrossEachAtItsOwnTime()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = Make(new TransPointOptions { TransPoint = 10, DState = 4, HeadDim = 3, NGroups = 2 });
        using var state = (TransPointState)mixer.CreateState(3);
        var x = Values.Normal(6, 3, 60, Width);
        var whole = mixer.call(x);
        long[] seen = [0, 0, 0];
        foreach (var counts in new long[][] { [9, 2, 12], [1, 1, 1], [5, 3, 2], [1, 3, 1], [1, 1, 1], [1, 5, 3], [1, 1, 1], [4, 4, 4] })
        {
            var longest = counts.Max();
            var input = cat([.. seen.Select((start, row) => x.narrow(0, row, 1).narrow(1, start, longest))], 0);
            var context = new MixerContext { State = state, Lengths = counts.Distinct().Count() == 1 ? null : counts };
            var output = mixer.forward(input, context);
            for (var row = 0; row < 3; row++)
            {
                TensorAssert.Close(whole[row].narrow(0, seen[row], counts[row]), output[row].narrow(0, 0, counts[row]), Tolerance, $"row {row} at {seen[row]}");
                seen[row] += counts[row];
            }

            Assert.Equal(seen.All(tokens => tokens >= 10), state.Cache is null);
        }

        Assert.Equal(seen, state.Positions);
    }

    [Fact]
    public void TheSwitchGapComparesTheTwoPartsAtThePoint()
    {
        using var scope = NewDisposeScope();
        using var mixer = Make(new TransPointOptions { TransPoint = 9, DState = 4, HeadDim = 3 });
        using var later = Make(new TransPointOptions { TransPoint = 10, DState = 4, HeadDim = 3 });
        var x = Values.Normal(6, 2, 30, Width);
        var (switched, attended) = (Values.Of(mixer.call(x).select(1, 9)), Values.Of(later.call(x).select(1, 9)));
        var expected = Math.Sqrt(
            switched.Zip(attended, (a, b) => (a - b) * (a - b)).Sum() / attended.Sum(value => value * value));
        var gap = mixer.MeasureSwitchGap(x);
        Assert.True(expected > 0.01, "random weights must show a gap, or the test says nothing");
        Assert.Equal(expected, gap, 1e-5);
        Assert.Equal(gap, mixer.MeasureSwitchGap(x.narrow(1, 0, 10)), 1e-12);

        // Over one token attention returns its value, and so does a state space without steps whose skip is one: no gap.
        using var first = Make(new TransPointOptions { TransPoint = 0, DState = 4, HeadDim = 3 });
        using (no_grad())
        {
            first.get_parameter("dt_bias")!.fill_(-60);
            first.get_parameter("D")!.fill_(1);
        }

        Assert.InRange(first.MeasureSwitchGap(x), 0, 1e-6);
    }

    [Fact]
    public void TheSwitchGapNeedsATokenAfterThePoint()
    {
        using var scope = NewDisposeScope();
        using var mixer = Make(new TransPointOptions { TransPoint = 9, DState = 4, HeadDim = 3 });
        var error = Assert.Throws<ArgumentException>(() => mixer.MeasureSwitchGap(Values.Normal(6, 2, 9, Width)));
        Assert.StartsWith(
            "TransPointMixer: the switch gap needs x [B, T, 6] with T above the TransPoint, 9; got [2, 9, 6].", error.Message, StringComparison.Ordinal);
        Assert.ThrowsAny<ArgumentException>(() => mixer.MeasureSwitchGap(Values.Normal(6, 30, Width)));
        Assert.ThrowsAny<ArgumentException>(() => mixer.MeasureSwitchGap(Values.Normal(6, 2, 30, Width + 1)));
    }

    /// <summary>Norm weights and skips away from one, so that leaving them out shows.</summary>
    private static TransPointMixer Make(TransPointOptions options)
    {
        manual_seed(5);
        var mixer = new TransPointMixer(Width, options);
        using var guard = no_grad();
        mixer.get_parameter("D")!.uniform_(0.5, 1.5);
        mixer.get_parameter("norm.weight")!.uniform_(0.5, 1.5);

        return mixer;
    }
}
