using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class WkvTests
{
    // What is compared with was computed in float64: this is the rounding of a float32 kernel over up to a few hundred steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("wkv4");

    /// <summary>Both forms at ugly lengths, with decays from hardly any to nearly all.</summary>
    public static TheoryData<WkvForm, long, double> FormsLengthsAndDecays
    {
        get
        {
            var data = new TheoryData<WkvForm, long, double>();
            foreach (var form in Enum.GetValues<WkvForm>())
            {
                foreach (var time in new long[] { 1, 2, 3, 63, 65, 100 })
                {
                    foreach (var decay in new[] { -9.0, -1.0, 3.0 })
                    {
                        data.Add(form, time, decay);
                    }
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("wkv4", name);
        var inputs = golden.Inputs();
        var initial = inputs.TryGetValue("state_num", out var numerator) ? State(numerator, inputs["state_den"], inputs["state_max"]) : null;
        var (y, state) = Wkv.Apply(WkvForm.Rwkv4, inputs["time_decay"], inputs["time_first"], inputs["key"], inputs["value"], initial);

        TensorAssert.Close(golden.Get("out.wkv"), y, Tolerance, $"{name} wkv");
        var expected = new WkvState(golden.Get("out.state_num"), golden.Get("out.state_den"), golden.Get("out.state_max"));

        // The maximum is rounded at every step; the sums make up for it, which the next two lines see.
        TensorAssert.Close(expected.Maximum, state.Maximum, Tolerance, $"{name} state_max");
        var scale = (state.Maximum - expected.Maximum).exp();
        TensorAssert.Close(expected.Numerator, state.Numerator * scale, Tolerance, $"{name} state_num");
        TensorAssert.Close(expected.Denominator, state.Denominator * scale, Tolerance, $"{name} state_den");

        golden.Loss(("wkv", y)).backward();
        golden.CheckGradients(inputs, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void AStateAfterAnyPrefixContinuesTheSums(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("wkv4", name);
        var (decay, bonus, key, value) = (golden.Get("in.time_decay"), golden.Get("in.time_first"), golden.Get("in.key"), golden.Get("in.value"));
        var initial = golden.Has("in.state_num") ? State(golden.Get("in.state_num"), golden.Get("in.state_den"), golden.Get("in.state_max")) : null;
        var time = key.size(1);
        foreach (var split in new[] { 1, time / 2, time - 1 }.Where(split => split > 0 && split < time).Distinct())
        {
            var (first, middle) = Wkv.Apply(WkvForm.Rwkv4, decay, bonus, key.narrow(1, 0, split), value.narrow(1, 0, split), initial);
            var (second, _) = Wkv.Apply(WkvForm.Rwkv4, decay, bonus, key.narrow(1, split, time - split), value.narrow(1, split, time - split), middle);
            TensorAssert.Close(golden.Get("out.wkv"), cat([first, second], 1), Tolerance, $"{name} split at {split}");
        }
    }

    [Theory]
    [MemberData(nameof(FormsLengthsAndDecays))]
    public void EqualsTheRecurrenceTokenByToken(WkvForm form, long time, double decay)
    {
        const long batch = 2;
        const long channels = 5;
        using var scope = NewDisposeScope();
        manual_seed(31);
        var inputs = Inputs(form, batch, time, channels, decay, ScalarType.Float32);
        var actual = Differentiation.Results(inputs, x =>
        {
            var (y, state) = Wkv.Apply(form, x[0], x[1], x[2], x[3], State(x[4], x[5], x[6]));
            return [y, state.Numerator * state.Maximum.exp(), state.Denominator * state.Maximum.exp()];
        });
        var expected = Differentiation.Results(
            inputs,
            x =>
            {
                var (y, n, d) = NaiveWkv.Run(form, x[0], x[1], x[2], x[3], x[4] * x[6].exp(), x[5] * x[6].exp());
                return [y, n, d];
            },
            ScalarType.Float64);
        TensorAssert.AllClose(expected, actual, Tolerance, $"{form}", "y", "N", "M", "ddecay", "dbonus", "dkey", "dvalue", "dnum", "dden", "dmax");
    }

    [Theory]
    [InlineData(WkvForm.DataDependent, 10)]
    [InlineData(WkvForm.DataDependent, 60)]
    [InlineData(WkvForm.Rwkv4, 10)]
    [InlineData(WkvForm.Rwkv4, 60)]
    public void LargeKeysNeitherOverflowNorLosePrecision(WkvForm form, double size)
    {
        using var scope = NewDisposeScope();
        manual_seed(32);
        var inputs = Inputs(form, 2, 131, 7, -6, ScalarType.Float32);
        inputs[2] = (randn(2, 131, 7) * size).clamp_max(250).requires_grad_(true);
        var (y, state) = Wkv.Apply(form, inputs[0], inputs[1], inputs[2], inputs[3]);
        var (wide, _, sum) = NaiveWkv.Run(form, Wide(0), Wide(1), Wide(2), Wide(3));
        TensorAssert.Close(wide, y, Tolerance, "y");

        // A maximum of 250 is rounded to 8e-6, and so are the sums.
        var sums = state.Denominator.to_type(ScalarType.Float64) * state.Maximum.to_type(ScalarType.Float64).exp();
        TensorAssert.Close(ones_like(sum), sums / sum, 2e-5, "M, element by element");

        y.square().sum().backward();
        Assert.True(inputs[2].grad!.isfinite().all().ToBoolean());

        Tensor Wide(int i) => inputs[i].detach().to_type(ScalarType.Float64);
    }

    [Theory]
    [InlineData(WkvForm.DataDependent)]
    [InlineData(WkvForm.Rwkv4)]
    public void NoInputMakesTheOutputInfinite(WkvForm form)
    {
        using var scope = NewDisposeScope();
        manual_seed(33);
        foreach (var (key, decay) in new[] { (1e4, -30.0), (-1e4, -30.0), (1e4, 4.0), (-1e4, 4.0) })
        {
            var inputs = Inputs(form, 1, 50, 3, decay, ScalarType.Float32);
            inputs[2] = (randn(1, 50, 3) + key).requires_grad_(true);
            var (y, state) = Wkv.Apply(form, inputs[0], inputs[1], inputs[2], inputs[3]);
            y.sum().backward();
            Assert.All(
                new[] { y, state.Numerator, state.Denominator, state.Maximum, inputs[2].grad! },
                result => Assert.True(result.isfinite().all().ToBoolean(), $"keys {key}, decay {decay}"));
            Assert.InRange(y.abs().max().ToDouble(), 0, inputs[3].abs().max().ToDouble() * (1 + 1e-5));
        }
    }

    [Theory]
    [InlineData(WkvForm.DataDependent, 1)]
    [InlineData(WkvForm.DataDependent, 11)]
    [InlineData(WkvForm.Rwkv4, 1)]
    [InlineData(WkvForm.Rwkv4, 11)]
    public void GradientsAgreeWithFiniteDifferences(WkvForm form, long time)
    {
        using var scope = NewDisposeScope();
        manual_seed(34);
        FiniteDifferences.Check(
            x =>
            {
                var (y, state) = Wkv.Apply(form, x[0], x[1], x[2], x[3], State(x[4], x[5], x[6]));
                return [y, state.Numerator * state.Maximum.exp(), state.Denominator * state.Maximum.exp()];
            },
            Inputs(form, 2, time, 3, -1, ScalarType.Float64));
    }

    [Theory]
    [InlineData(WkvForm.DataDependent)]
    [InlineData(WkvForm.Rwkv4)]
    public void EverySplitContinuesFromItsState(WkvForm form)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(35);
        const long time = 38;
        var x = Inputs(form, 2, time, 4, -2, ScalarType.Float32);
        var (whole, last) = Wkv.Apply(form, x[0], x[1], x[2], x[3]);
        for (var split = 1L; split < time; split++)
        {
            var (first, middle) = Part(0, split, null);
            var (second, end) = Part(split, time - split, middle);
            TensorAssert.Close(whole, cat([first, second], 1), 1e-6, $"split at {split}");
            TensorAssert.Close(last.Denominator, end.Denominator * (end.Maximum - last.Maximum).exp(), 1e-6, $"M, split at {split}");
        }

        (Tensor Y, WkvState State) Part(long start, long length, WkvState? state) => Wkv.Apply(
            form, form == WkvForm.Rwkv4 ? x[0] : x[0].narrow(1, start, length), x[1], x[2].narrow(1, start, length), x[3].narrow(1, start, length), state);
    }

    [Fact]
    public void TheSumOfWeightsSettlesWhereTheSeriesDoes()
    {
        // Keys of zero weigh 1, so with d = 0.7 the sum is 1 + 0.7 + 0.49 + ... = 1 / 0.3.
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var raw = full([1, 400, 1], Math.Log(0.3 / 0.7));
        foreach (var time in new long[] { 1, 2, 100, 400 })
        {
            var keys = zeros(1, time, 1);
            var (y, state) = Wkv.Apply(WkvForm.DataDependent, raw.narrow(1, 0, time), zeros(1), keys, keys + 2);
            var expected = (1 - Math.Pow(0.7, time)) / 0.3;
            Assert.Equal(expected, (state.Denominator * state.Maximum.exp()).item<float>(), 1e-5);
            Assert.Equal(2 * expected / (expected + 1e-6), y[0, time - 1, 0].item<float>(), 1e-6);
        }
    }

    [Fact]
    public void PaddingLeavesTheStateAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(36);
        foreach (var form in Enum.GetValues<WkvForm>())
        {
            var x = Inputs(form, 1, 12, 3, -1, ScalarType.Float32);
            var mask = arange(12).lt(7).unsqueeze(0);
            var decay = form == WkvForm.Rwkv4 ? x[0] : x[0].narrow(1, 0, 7);
            var (_, padded) = Wkv.Apply(form, x[0], x[1], x[2], x[3], mask: mask);
            var (_, alone) = Wkv.Apply(form, decay, x[1], x[2].narrow(1, 0, 7), x[3].narrow(1, 0, 7));
            TensorAssert.Close(alone.Maximum, padded.Maximum, 1e-6, "max");
            TensorAssert.Close(alone.Numerator, padded.Numerator, 1e-6, "num");
            TensorAssert.Close(alone.Denominator, padded.Denominator, 1e-6, "den");

            var (_, none) = Wkv.Apply(form, x[0], x[1], x[2], x[3], mask: zeros([1, 12], dtype: ScalarType.Bool));
            Assert.Equal(0, none.Denominator.abs().max().ToDouble());
        }
    }

    [Fact]
    public void APackedRowIsItsSequencesApart()
    {
        using var scope = NewDisposeScope();
        manual_seed(37);
        foreach (var form in Enum.GetValues<WkvForm>())
        {
            var x = Inputs(form, 1, 11, 3, -4, ScalarType.Float32);
            var restart = tensor(new[] { false, false, false, false, true, false, false, false, false, true, false }).unsqueeze(0);
            var (packed, _) = Wkv.Apply(form, x[0], x[1], x[2], x[3], restart: restart);
            foreach (var (start, length) in new[] { (0L, 4L), (4L, 5L), (9L, 2L) })
            {
                var decay = form == WkvForm.Rwkv4 ? x[0] : x[0].narrow(1, start, length);
                var (alone, _) = Wkv.Apply(form, decay, x[1], x[2].narrow(1, start, length), x[3].narrow(1, start, length));
                TensorAssert.Close(alone, packed.narrow(1, start, length), 1e-6, $"{form}, the sequence at {start}");
            }

            packed.narrow(1, 4, 5).square().sum().backward();
            Assert.Equal(0, x[2].grad!.narrow(1, 0, 4).abs().sum().ToDouble());
            Assert.True(x[2].grad!.isfinite().all().ToBoolean());
        }
    }

    [Fact]
    public void HalfPrecisionInputsAreSummedInFloat32()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(38);
        var x = Inputs(WkvForm.DataDependent, 1, 40, 3, -2, ScalarType.Float32).Select(input => input.to_type(ScalarType.BFloat16)).ToArray();
        var (y, state) = Wkv.Apply(WkvForm.DataDependent, x[0], x[1], x[2], x[3]);
        Assert.Equal(ScalarType.BFloat16, y.dtype);
        Assert.Equal(ScalarType.Float32, state.Numerator.dtype);
        var wide = x.Select(input => input.to_type(ScalarType.Float32)).ToArray();
        var (expected, _) = Wkv.Apply(WkvForm.DataDependent, wide[0], wide[1], wide[2], wide[3]);
        TensorAssert.Identical(expected.to_type(ScalarType.BFloat16), y, "rounded once, at the end");
    }

    [Fact]
    public void MismatchedShapesAreNamed()
    {
        using var scope = NewDisposeScope();
        var (x, u) = (zeros(2, 5, 3), zeros(3));
        Expect("Wkv: decay must be [3]; got [2, 5, 3].", () => Wkv.Apply(WkvForm.Rwkv4, x, u, x, x));
        Expect("Wkv: decay must be [2, 5, 3]; got [3].", () => Wkv.Apply(WkvForm.DataDependent, u, u, x, x));
        Expect("Wkv: key must be [B, T, E], all at least 1; got [3].", () => Wkv.Apply(WkvForm.Rwkv4, u, u, u, x));
        Expect("Wkv: value must be [2, 5, 3]; got [2, 4, 3].", () => Wkv.Apply(WkvForm.Rwkv4, u, u, x, zeros(2, 4, 3)));
        Expect("Wkv: bonus must be [3]; got [4].", () => Wkv.Apply(WkvForm.Rwkv4, u, zeros(4), x, x));
        Expect("Wkv: mask must be [2, 5]; got [5].", () => Wkv.Apply(WkvForm.Rwkv4, u, u, x, x, mask: zeros(5)));
        Expect("Wkv: initialState.Maximum must be [2, 3]; got [3].", () => Wkv.Apply(WkvForm.Rwkv4, u, u, x, x, State(zeros(2, 3), zeros(2, 3), u)));

        static void Expect(string text, Action action) =>
            Assert.StartsWith(text, Assert.Throws<ArgumentException>(action).Message, StringComparison.Ordinal);
    }

    private static WkvState? State(Tensor numerator, Tensor denominator, Tensor maximum) => new(numerator, denominator, maximum);

    /// <summary>decay, bonus, key, value, and a state: num, den, max. Each a leaf.</summary>
    private static Tensor[] Inputs(WkvForm form, long batch, long time, long channels, double decay, ScalarType type)
    {
        Tensor[] values =
        [
            form == WkvForm.Rwkv4 ? (randn(channels) * 0.5) + decay : (randn(batch, time, channels) * 0.5) + decay,
            randn(channels), randn(batch, time, channels) * 1.5, randn(batch, time, channels),
            randn(batch, channels), rand(batch, channels) + 0.5, randn(batch, channels),
        ];
        return [.. values.Select(value => value.to_type(type).detach().requires_grad_(true))];
    }
}
