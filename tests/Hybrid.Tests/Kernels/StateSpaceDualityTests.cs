using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class StateSpaceDualityTests
{
    // float32 against float64, or against float32 in another order, over up to 100 steps.
    private const double Tolerance = 1e-5;

    [Theory]
    [InlineData(1, 1.0, 1.0)]
    [InlineData(2, 1.0, 1.0)]
    [InlineData(63, 1.0, 1.0)]
    [InlineData(65, 1.0, 1.0)]
    [InlineData(100, 1.0, 1.0)]
    [InlineData(100, 1e-4, 1.0)]
    [InlineData(100, 1000.0, 1.0)]
    [InlineData(65, 1.0, 1e6)]
    public void EqualsTheRecurrenceTokenByToken(long time, double decay, double scale)
    {
        // Two batch rows, six heads of width 3 in two groups, five states.
        using var scope = NewDisposeScope();
        manual_seed(9);
        Tensor[] inputs =
        [
            randn(2, time, 6, 3) * scale, randn(2, time, 6), -randn(6).exp() * decay, randn(2, time, 2, 5), randn(2, time, 2, 5),
            randn(6, 3), randn(2, time, 6, 3), randn(6), randn(2, 6, 3, 5) * scale,
        ];
        var expected = Differentiation.Results(
            inputs, x => TokenByToken(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8]), ScalarType.Float64);
        foreach (var referenceKernel in new[] { false, true })
        {
            using var kernels = new KernelChoice(referenceKernel);
            var actual = Differentiation.Results(inputs, x => StateSpaceDuality.Apply(
                x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], true, null, null, x[8], chunkSize: 16));
            TensorAssert.AllClose(
                expected, actual, Tolerance, $"reference kernel {referenceKernel}",
                "y", "final state", "dx", "ddt", "dA", "dB", "dC", "dD", "dz", "ddtBias", "dinitialState");
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ASmallDecayBesideALargeOneKeepsItsDigits(bool referenceKernel)
    {
        // One step forgets everything (a decay of exp(-10000)), the others almost nothing. A difference of running sums would know the
        // small decays to 1e-3 only; float32 has 6e-8.
        using var scope = NewDisposeScope();
        using var kernels = new KernelChoice(referenceKernel);
        manual_seed(4);
        var dt = full(1, 64, 2, 1e-2);
        dt.narrow(1, 3, 1).fill_(1e4);
        var (x, b, c) = (rand(1, 64, 2, 3) + 0.5, rand(1, 64, 1, 4), rand(1, 64, 1, 4));
        x.narrow(1, 3, 1).zero_();
        var a = -ones(2);
        var (y, state) = StateSpaceDuality.Apply(x, dt, a, b, c);
        var (exact, exactState) = StateSpaceDuality.Apply(Wide(x), Wide(dt), Wide(a), Wide(b), Wide(c));
        TensorAssert.Close(exact, y, 1e-6, "y");
        TensorAssert.Close(exactState, state, 1e-6, "final state");

        static Tensor Wide(Tensor tensor) => tensor.to_type(ScalarType.Float64);
    }

    [Theory]
    [InlineData(1, 1, 1, 1, 1, 1)]
    [InlineData(2, 7, 4, 2, 3, 4)]
    [InlineData(1, 17, 3, 3, 2, 3)]
    public void GradientsAgreeWithFiniteDifferences(long batch, long time, long heads, long groups, long headWidth, long states)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        Tensor[] inputs =
        [
            Random(batch, time, heads, headWidth), Random(batch, time, heads), -Random(heads).exp(), Random(batch, time, groups, states),
            Random(batch, time, groups, states), Random(heads), Random(batch, time, heads, headWidth), Random(heads),
            Random(batch, heads, headWidth, states),
        ];
        FiniteDifferences.Check(
            x =>
            {
                var (y, state) = StateSpaceDuality.Apply(
                    x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], true, 0.3, 1.1, initialState: x[8], chunkSize: 6);
                return [y, state];
            },
            inputs);
    }

    [Theory]
    [InlineData(4)]
    [InlineData(64)]
    public void APackedRowIsItsSequencesApart(long chunkSize)
    {
        using var scope = NewDisposeScope();
        manual_seed(5);
        var (x, dt, b, c) = (randn(1, 11, 4, 3), randn(1, 11, 4), randn(1, 11, 2, 5), randn(1, 11, 2, 5));
        var a = -randn(4).exp();
        var upstream = randn(1, 11, 4, 3);
        var restart = tensor(new[] { false, false, false, false, true, false, false, false, false, true, false }).unsqueeze(0);

        Tensor[] inputs = [x, dt, a, b, c];
        var packed = Differentiation.Leaves(inputs);
        var (y, _) = Apply(packed, 0, 11, restart);
        (y * upstream).sum().backward();

        var apart = Differentiation.Leaves(inputs);
        foreach (var (start, length) in new[] { (0L, 4L), (4L, 5L), (9L, 2L) })
        {
            var (alone, _) = Apply(apart, start, length, null);
            TensorAssert.Close(alone, y.narrow(1, start, length), 1e-6, $"the sequence at {start}");
            (alone * upstream.narrow(1, start, length)).sum().backward();
        }

        foreach (var (expected, actual) in apart.Zip(packed))
        {
            TensorAssert.Close(expected.grad!, actual.grad!, Tolerance, "a gradient");
        }

        (Tensor Y, Tensor State) Apply(Tensor[] t, long start, long length, Tensor? restarts) => StateSpaceDuality.Apply(
            t[0].narrow(1, start, length), t[1].narrow(1, start, length), t[2], t[3].narrow(1, start, length), t[4].narrow(1, start, length),
            dtSoftplus: true, restart: restarts, chunkSize: chunkSize);
    }

    [Fact]
    public void PaddingLeavesTheStateAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(6);
        var (x, dt, b, c) = (randn(2, 9, 2, 3), randn(2, 9, 2), randn(2, 9, 1, 4), randn(2, 9, 1, 4));
        var (a, initial) = (-randn(2).exp(), randn(2, 2, 3, 4));
        var mask = arange(9).unsqueeze(0).lt(tensor(new long[] { 9, 4 }).unsqueeze(1));

        // A lower limit on the step size must not reach the padding either.
        var (y, state) = StateSpaceDuality.Apply(x, dt, a, b, c, dtSoftplus: true, dtMin: 0.1, initialState: initial, mask: mask, chunkSize: 3);
        for (var row = 0; row < 2; row++)
        {
            var length = row == 0 ? 9 : 4;
            var (alone, last) = StateSpaceDuality.Apply(
                Part(x), Part(dt), a, Part(b), Part(c), dtSoftplus: true, dtMin: 0.1, initialState: initial.narrow(0, row, 1));
            TensorAssert.Close(alone, Part(y), 1e-6, $"row {row}");
            TensorAssert.Close(last, state.narrow(0, row, 1), 1e-6, $"state of row {row}");

            Tensor Part(Tensor t) => t.narrow(0, row, 1).narrow(1, 0, length);
        }
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, 0.01)]
    [InlineData(ScalarType.Float16, 0.002)]
    public void ShortTypesAreComputedInFloat32(ScalarType dtype, double tolerance)
    {
        // The inputs are exact in both types, so only the rounding of the output is left: 2^-9 and 2^-11 of an element.
        using var scope = NewDisposeScope();
        manual_seed(7);
        var inputs = new[] { randn(1, 70, 2, 3), rand(1, 70, 2), -rand(2), randn(1, 70, 1, 4), randn(1, 70, 1, 4) }
            .Select(input => input.to_type(dtype)).ToArray();
        var (y, state) = StateSpaceDuality.Apply(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
        Assert.Equal(dtype, y.dtype);
        Assert.Equal(ScalarType.Float32, state.dtype);
        var wide = inputs.Select(input => input.to_type(ScalarType.Float32)).ToArray();
        var (expected, expectedState) = StateSpaceDuality.Apply(wide[0], wide[1], wide[2], wide[3], wide[4]);
        TensorAssert.Close(expected, y, tolerance, "y");
        TensorAssert.Identical(expectedState, state, "final state");
    }

    [Fact]
    public void MismatchedShapesAreNamed()
    {
        using var scope = NewDisposeScope();
        var (x, dt, a, bc) = (zeros(2, 5, 4, 3), zeros(2, 5, 4), zeros(4), zeros(2, 5, 2, 6));
        Expect("x must be [B, T, H, P], all at least 1; got [2, 5, 4].", () => StateSpaceDuality.Apply(dt, dt, a, bc, bc));
        Expect("dt must be [2, 5, 4]; got [2, 4, 4].", () => StateSpaceDuality.Apply(x, zeros(2, 4, 4), a, bc, bc));
        Expect("A must be [4]; got [4, 6].", () => StateSpaceDuality.Apply(x, dt, zeros(4, 6), bc, bc));
        Expect("B must be [2, 5, G, N] with G dividing 4; got [2, 5, 3, 6].", () => StateSpaceDuality.Apply(x, dt, a, zeros(2, 5, 3, 6), bc));
        Expect("C must be [2, 5, 2, 6]; got [2, 5, 1, 6].", () => StateSpaceDuality.Apply(x, dt, a, bc, zeros(2, 5, 1, 6)));
        Expect("D must be [4] or [4, 3]; got [3].", () => StateSpaceDuality.Apply(x, dt, a, bc, bc, zeros(3)));
        Expect("z must be [2, 5, 4, 3]; got [2, 5, 12].", () => StateSpaceDuality.Apply(x, dt, a, bc, bc, z: zeros(2, 5, 12)));
        Expect("dtBias must be [4]; got [1].", () => StateSpaceDuality.Apply(x, dt, a, bc, bc, dtBias: zeros(1)));
        Expect("initialState must be [2, 4, 3, 6]; got [2, 4, 6, 3].", () => StateSpaceDuality.Apply(x, dt, a, bc, bc, initialState: zeros(2, 4, 6, 3)));
        Expect("mask must be [2, 5]; got [5].", () => StateSpaceDuality.Apply(x, dt, a, bc, bc, mask: ones([5], dtype: ScalarType.Bool)));
        Expect("restart must be [2, 5]; got [5].", () => StateSpaceDuality.Apply(x, dt, a, bc, bc, restart: ones([5], dtype: ScalarType.Bool)));
        Expect("chunkSize must be at least 1; got 0.", () => StateSpaceDuality.Apply(x, dt, a, bc, bc, chunkSize: 0));

        static void Expect(string text, Action action) =>
            Assert.StartsWith("StateSpaceDuality: " + text, Assert.ThrowsAny<ArgumentException>(action).Message, StringComparison.Ordinal);
    }

    /// <summary>The recurrence as it is written, one token after another, with softplus.</summary>
    private static (Tensor Y, Tensor State) TokenByToken(
        Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor d, Tensor z, Tensor bias, Tensor state)
    {
        var (heads, groups) = (x.size(2), b.size(2));
        var outputs = new List<Tensor>();
        for (var t = 0L; t < x.size(1); t++)
        {
            var step = (dt.select(1, t) + bias).softplus().unsqueeze(-1).unsqueeze(-1);                  // [B, H, 1, 1]
            var input = x.select(1, t).unsqueeze(-1);                                                    // [B, H, P, 1]
            state = ((step * a.view(heads, 1, 1)).exp() * state) + (step * input * OfHead(b, t));
            var y = (state * OfHead(c, t)).sum(-1) + (d * x.select(1, t));
            outputs.Add(y * z.select(1, t) * z.select(1, t).sigmoid());
        }

        return (stack(outputs, 1), state);

        // [B, H, 1, N]: head h reads group h / (H / G).
        Tensor OfHead(Tensor matrix, long t) => stack(
            [.. Enumerable.Range(0, (int)heads).Select(h => matrix.select(1, t).select(1, h / (heads / groups)))], 1).unsqueeze(2);
    }

    private static Tensor Random(params long[] shape) => randn(shape, dtype: ScalarType.Float64);
}
