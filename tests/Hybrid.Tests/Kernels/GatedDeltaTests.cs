using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class GatedDeltaTests
{
    // Cases were rounded to float32 from float64, so this is the rounding of a float32 kernel over a few hundred steps.
    private const double Tolerance = 1e-5;

    /// <summary>Every case with the kernel that the dispatcher picks, and with the reference kernel.</summary>
    public static TheoryData<string, string, bool> CasesAndKernels
    {
        get
        {
            var data = new TheoryData<string, string, bool>();
            foreach (var row in Cases)
            {
                data.Add(row.Data.Item1, row.Data.Item2, false);
                data.Add(row.Data.Item1, row.Data.Item2, true);
            }

            return data;
        }
    }

    public static TheoryData<string, string> Cases
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (var operation in new[] { "gated_delta_rule", "delta_rule" })
            {
                foreach (var row in GoldenCases.Of(operation))
                {
                    data.Add(operation, row.Data);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(CasesAndKernels))]
    public void EqualsTheReferenceImplementation(string operation, string name, bool referenceKernel)
    {
        using var scope = NewDisposeScope();
        using var kernels = new KernelChoice(referenceKernel);
        using var golden = GoldenCases.Load(operation, name);
        var inputs = golden.Inputs();
        var (o, state) = Run(golden, inputs);

        TensorAssert.Close(TimeFirst(golden, golden.Get("out.o")), o, Tolerance, $"{name} o");
        TensorAssert.Close(golden.Get("out.final_state"), state, Tolerance, $"{name} final_state");

        golden.Loss(("o", TimeFirst(golden, o)), ("final_state", state)).backward();
        golden.CheckGradients(inputs, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void AStateAfterAnyPrefixContinuesTheRule(string operation, string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load(operation, name);
        var inputs = golden.Inputs();
        var axis = TimeIsThird(golden) ? 2 : 1;
        var length = inputs["q"].size(axis);
        foreach (var split in new[] { 1, 17, length / 2, length - 1 }.Where(split => split > 0 && split < length))
        {
            var (first, middle) = Run(golden, Slice(0, split, null));
            var (second, last) = Run(golden, Slice(split, length - split, middle));
            TensorAssert.Close(TimeFirst(golden, golden.Get("out.o")), cat([first, second], 1), Tolerance, $"{name} o split at {split}");
            TensorAssert.Close(golden.Get("out.final_state"), last, Tolerance, $"{name} final_state split at {split}");
        }

        Dictionary<string, Tensor> Slice(long start, long count, Tensor? state)
        {
            var slice = inputs.ToDictionary(
                entry => entry.Key, entry => entry.Key == "initial_state" ? entry.Value : entry.Value.narrow(axis, start, count));
            if (state is not null)
            {
                slice["initial_state"] = state;
            }

            return slice;
        }
    }

    [Theory]
    [InlineData(1, 1, 1, 1, 1, 0.1)]
    [InlineData(2, 2, 3, 4, 5, 0.1)]
    [InlineData(1, 63, 2, 7, 3, 0.01)]
    [InlineData(2, 64, 1, 8, 8, 1)]
    [InlineData(1, 65, 3, 5, 9, 0.1)]
    [InlineData(2, 100, 2, 3, 4, 10)]
    [InlineData(1, 129, 1, 6, 2, 0)]
    [InlineData(1, 130, 2, 4, 6, 1000)]
    public void EqualsTheRuleTokenByToken(long batch, long time, long heads, long keyWidth, long valueWidth, double decay)
    {
        using var scope = NewDisposeScope();
        manual_seed(4);
        Tensor[] inputs =
        [
            randn(batch, time, heads, keyWidth), Unit(randn(batch, time, heads, keyWidth)), randn(batch, time, heads, valueWidth),
            rand(batch, time, heads), -rand(batch, time, heads) * decay, randn(batch, heads, keyWidth, valueWidth),
        ];
        var expected = Differentiation.Results(inputs, x => NaiveGatedDelta.Run(x[0], x[1], x[2], x[3], x[4], x[5], 0.7), ScalarType.Float64);
        foreach (var referenceKernel in new[] { false, true })
        {
            using var kernels = new KernelChoice(referenceKernel);
            var actual = Differentiation.Results(inputs, x => GatedDelta.Apply(x[0], x[1], x[2], x[3], x[4], 0.7, initialState: x[5]));
            TensorAssert.AllClose(
                expected, actual, Tolerance, $"reference kernel {referenceKernel}", "o", "state", "dq", "dk", "dv", "dbeta", "dg", "dinitial");
        }
    }

    [Fact]
    public void WithoutADecayItIsADecayOfZero()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(6);
        var (q, k, v, beta) = (randn(2, 70, 2, 5), randn(2, 70, 2, 5), randn(2, 70, 2, 3), rand(2, 70, 2));
        var (o, state) = GatedDelta.Apply(q, k, v, beta, normalise: true);
        var (expected, expectedState) = GatedDelta.Apply(q, k, v, beta, zeros(2, 70, 2), Math.Pow(5, -0.5), true, zeros(2, 2, 5, 3));
        TensorAssert.Identical(expected, o, "o");
        TensorAssert.Identical(expectedState, state, "state");
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void LargeInputsStayFinite(bool manyRepeatedKeys, bool referenceKernel)
    {
        // Keys of length 1 keep the rule stable whatever their size was; the same key at every step is the worst system to solve.
        using var scope = NewDisposeScope();
        using var kernels = new KernelChoice(referenceKernel);
        manual_seed(8);
        var k = manyRepeatedKeys ? randn(1, 1, 2, 6).expand(1, 200, 2, 6).contiguous() * 1e4 : randn(1, 200, 2, 6) * 1e4;
        Tensor[] inputs = [randn(1, 200, 2, 6) * 1e4, k, randn(1, 200, 2, 4) * 1e4, ones(1, 200, 2), -(randn(1, 200, 2) * 3).exp()];
        var x = Differentiation.Leaves(inputs);
        var (o, state) = GatedDelta.Apply(x[0], x[1], x[2], x[3], x[4], normalise: true);
        (o.sum() + state.sum()).backward();
        Assert.All(x, leaf => Assert.True(leaf.grad!.isfinite().all().ToBoolean()));

        var wide = inputs.Select(input => input.to_type(ScalarType.Float64)).ToArray();
        var (expected, expectedState) = NaiveGatedDelta.Run(
            Unit(wide[0]), Unit(wide[1]), wide[2], wide[3], wide[4],
            zeros([1, 2, 6, 4], dtype: ScalarType.Float64), Math.Pow(6, -0.5));
        TensorAssert.Close(expected, o.to_type(ScalarType.Float64), Tolerance, "o");
        TensorAssert.Close(expectedState, state.to_type(ScalarType.Float64), Tolerance, "state");
    }

    [Theory]
    [InlineData(1, 1, 1, 1, 1)]
    [InlineData(2, 5, 2, 3, 4)]
    [InlineData(1, 67, 1, 2, 3)]
    public void GradientsAgreeWithFiniteDifferences(long batch, long time, long heads, long keyWidth, long valueWidth)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        Tensor[] inputs =
        [
            Random(batch, time, heads, keyWidth), Random(batch, time, heads, keyWidth), Random(batch, time, heads, valueWidth),
            Random(batch, time, heads).sigmoid(), -Random(batch, time, heads).exp(), Random(batch, heads, keyWidth, valueWidth),
        ];
        FiniteDifferences.Check(
            x =>
            {
                var (o, state) = GatedDelta.Apply(x[0], x[1], x[2], x[3], x[4], normalise: true, initialState: x[5]);
                return [o, state];
            },
            inputs);
    }

    [Fact]
    public void APackedRowIsItsSequencesApart()
    {
        using var scope = NewDisposeScope();
        manual_seed(5);
        Tensor[] inputs = [randn(1, 80, 2, 3), randn(1, 80, 2, 3), randn(1, 80, 2, 4), rand(1, 80, 2), -rand(1, 80, 2)];
        (long Start, long Length)[] sequences = [(0, 4), (4, 35), (39, 1), (40, 40)];
        var starts = Enumerable.Range(0, 80).Select(t => t > 0 && sequences.Any(sequence => sequence.Start == t)).ToArray();
        var together = Differentiation.Leaves(inputs);
        var apart = Differentiation.Leaves(inputs);

        var (packed, last) = GatedDelta.Apply(
            together[0], together[1], together[2], together[3], together[4], normalise: true, restart: tensor(starts).unsqueeze(0));
        var alone = sequences.Select(sequence =>
        {
            var x = apart.Select(leaf => leaf.narrow(1, sequence.Start, sequence.Length)).ToArray();
            return GatedDelta.Apply(x[0], x[1], x[2], x[3], x[4], normalise: true);
        }).ToArray();

        TensorAssert.Close(cat(alone.Select(result => result.O).ToArray(), 1), packed, 1e-6, "o");
        TensorAssert.Close(alone[^1].FinalState, last, 1e-6, "state");
        var upstream = randn(1, 80, 2, 4);
        (packed * upstream).sum().backward();
        (cat(alone.Select(result => result.O).ToArray(), 1) * upstream).sum().backward();
        foreach (var (expected, actual) in apart.Zip(together))
        {
            // A restart drops what came before, so that decay has no effect; alone, it decays a state of zeros.
            TensorAssert.Close(expected.grad!, actual.grad!, Tolerance, "gradient");
        }
    }

    [Fact]
    public void PaddingLeavesTheStateAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        Tensor[] inputs = [randn(2, 70, 2, 3), randn(2, 70, 2, 3), randn(2, 70, 2, 4), rand(2, 70, 2), -rand(2, 70, 2)];
        long[] lengths = [70, 37];
        var mask = arange(70).unsqueeze(0).lt(tensor(lengths).unsqueeze(1));
        var initial = randn(2, 2, 3, 4);
        var (_, state) = GatedDelta.Apply(
            inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], normalise: true, initialState: initial, mask: mask);
        for (var row = 0; row < 2; row++)
        {
            var x = inputs.Select(input => input.narrow(0, row, 1).narrow(1, 0, lengths[row])).ToArray();
            var (_, expected) = GatedDelta.Apply(x[0], x[1], x[2], x[3], x[4], normalise: true, initialState: initial.narrow(0, row, 1));
            TensorAssert.Close(expected, state.narrow(0, row, 1), 1e-6, $"row {row}");
        }
    }

    [Fact]
    public void HalfPrecisionInputsAreComputedInFloat32()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(2);
        Tensor[] inputs = [randn(1, 66, 2, 3), randn(1, 66, 2, 3), randn(1, 66, 2, 4), rand(1, 66, 2), -rand(1, 66, 2)];
        var half = inputs.Select(input => input.to_type(ScalarType.BFloat16)).ToArray();
        var wide = half.Select(input => input.to_type(ScalarType.Float32)).ToArray();
        var (o, state) = GatedDelta.Apply(half[0], half[1], half[2], half[3], half[4], normalise: true);
        var (expected, expectedState) = GatedDelta.Apply(wide[0], wide[1], wide[2], wide[3], wide[4], normalise: true);
        Assert.Equal(ScalarType.Float32, state.dtype);
        TensorAssert.Identical(expectedState, state, "state");
        TensorAssert.Identical(expected.to_type(ScalarType.BFloat16), o, "o");
    }

    [Fact]
    public void MismatchedShapesAreNamed()
    {
        using var scope = NewDisposeScope();
        var (qk, v, beta) = (zeros(2, 5, 3, 4), zeros(2, 5, 3, 6), zeros(2, 5, 3));
        Expect("q must be [B, T, H, K], all at least 1; got [2, 5, 3]", () => GatedDelta.Apply(beta, qk, v, beta));
        Expect("k must be [2, 5, 3, 4]; got [2, 5, 3, 6]", () => GatedDelta.Apply(qk, v, v, beta));
        Expect("v must be [2, 5, 3, V]; got [2, 5, 3]", () => GatedDelta.Apply(qk, qk, beta, beta));
        Expect("beta must be [2, 5, 3]; got [2, 5, 3, 4]", () => GatedDelta.Apply(qk, qk, v, qk));
        Expect("g must be [2, 5, 3]; got [2, 5, 3, 4]", () => GatedDelta.Apply(qk, qk, v, beta, qk));
        Expect("initialState must be [2, 3, 4, 6]; got [2, 3, 6, 4]", () => GatedDelta.Apply(qk, qk, v, beta, initialState: zeros(2, 3, 6, 4)));
        Expect("mask must be [2, 5]; got [2, 5, 3]", () => GatedDelta.Apply(qk, qk, v, beta, mask: beta));
        Expect("restart must be [2, 5]; got [2, 5, 3]", () => GatedDelta.Apply(qk, qk, v, beta, restart: beta));

        static void Expect(string text, Action action) =>
            Assert.StartsWith($"GatedDelta: {text}.", Assert.Throws<ArgumentException>(action).Message, StringComparison.Ordinal);
    }

    private static Tensor Random(params long[] shape) => randn(shape, dtype: ScalarType.Float64);

    private static Tensor Unit(Tensor x) => x / (x.square().sum(-1, keepdim: true) + 1e-6).sqrt();

    private static bool TimeIsThird(GoldenCase golden) => golden.Flag("layout")!.Value.GetString() == "B H L d";

    /// <summary>Swaps time and heads where the case has heads first.</summary>
    private static Tensor TimeFirst(GoldenCase golden, Tensor x) => TimeIsThird(golden) ? x.transpose(1, 2) : x;

    private static (Tensor O, Tensor State) Run(GoldenCase golden, Dictionary<string, Tensor> inputs) => GatedDelta.Apply(
        TimeFirst(golden, inputs["q"]),
        TimeFirst(golden, inputs["k"]),
        TimeFirst(golden, inputs["v"]),
        TimeFirst(golden, inputs["beta"]),
        inputs.GetValueOrDefault("g"),
        normalise: golden.Flag("use_qk_l2norm")?.GetBoolean() ?? false,
        initialState: inputs.GetValueOrDefault("initial_state"));
}
