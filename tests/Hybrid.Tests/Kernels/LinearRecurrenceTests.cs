using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class LinearRecurrenceTests
{
    // Cases were rounded to float32 from float64, so this is the rounding of a float32 kernel over a few hundred steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("linear_recurrence");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("linear_recurrence", name);
        var inputs = golden.Inputs();
        var (y, state) = LinearRecurrence.Apply(inputs["x"], inputs["g"], inputs.GetValueOrDefault("initial_state"));
        TensorAssert.Close(golden.Get("out.y"), y, Tolerance, $"{name} y");
        TensorAssert.Close(golden.Get("out.final_state"), state, Tolerance, $"{name} final_state");

        golden.Loss(("y", y), ("final_state", state)).backward();
        golden.CheckGradients(inputs, Tolerance);
    }

    /// <summary>
    /// Gated linear attention (arXiv 2312.06635) and RWKV-6 (arXiv 2404.05892): the matrix S of a head is K x V independent channels of
    /// the recurrence, <c>S_t = diag(exp g_t) S_(t-1) + k_t v_t^T</c>; only what is read of it differs.
    /// </summary>
    [Theory]
    [InlineData("gla")]
    [InlineData("wkv6")]
    public void MatrixStatesOfLinearAttentionAreChannels(string operation)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.First(operation);
        var inputs = golden.Inputs();
        var (o, state) = operation == "gla"
            ? Run(inputs["g"], inputs["k"], inputs["v"])
            : Run(inputs["w"].transpose(1, 2), inputs["k"].transpose(1, 2), inputs["v"].transpose(1, 2));
        TensorAssert.Close(golden.Get("out.o"), o, Tolerance, $"{operation} o");
        TensorAssert.Close(golden.Get("out.final_state"), state, Tolerance, $"{operation} final_state");

        golden.Loss(("o", o), ("final_state", state)).backward();
        golden.CheckGradients(inputs, Tolerance);

        // g and k [B, T, H, K], v [B, T, H, V].
        (Tensor O, Tensor FinalState) Run(Tensor g, Tensor k, Tensor v)
        {
            var written = k.unsqueeze(-1) * v.unsqueeze(-2);                             // [B, T, H, K, V]
            var initial = inputs["initial_state"];
            var (all, last) = LinearRecurrence.Apply(written.flatten(2), g.unsqueeze(-1).expand(written.shape).flatten(2), initial.flatten(1));
            var states = all.view(written.shape);
            var final = last.view(initial.shape);
            if (operation == "gla")
            {
                return ((inputs["q"].unsqueeze(-1) * states).sum(dim: -2) * Math.Pow(k.size(-1), -0.5), final);
            }

            var before = cat([initial.unsqueeze(1), states.narrow(1, 0, states.size(1) - 1)], 1);
            var read = before + (inputs["u"].unsqueeze(-1) * written);
            return ((inputs["r"].transpose(1, 2).unsqueeze(-1) * read).sum(dim: -2).transpose(1, 2), final);
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void AStateAfterAnyPrefixContinuesTheRecurrence(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("linear_recurrence", name);
        var (x, g, initial) = (golden.Get("in.x"), golden.Get("in.g"), golden.Find("in.initial_state"));
        var time = x.size(1);
        for (var split = 1L; split < time; split += Math.Max(1, time / 20))
        {
            var (first, middle) = LinearRecurrence.Apply(x.narrow(1, 0, split), g.narrow(1, 0, split), initial);
            var (second, last) = LinearRecurrence.Apply(x.narrow(1, split, time - split), g.narrow(1, split, time - split), middle);
            TensorAssert.Close(golden.Get("out.y"), cat([first, second], 1), Tolerance, $"{name} y split at {split}");
            TensorAssert.Close(golden.Get("out.final_state"), last, Tolerance, $"{name} final_state split at {split}");
        }
    }

    [Theory]
    [InlineData(1, 1e-4)]
    [InlineData(2, 1)]
    [InlineData(9, 1)]
    [InlineData(63, 1e-3)]
    [InlineData(65, 0.3)]
    [InlineData(100, 1e-6)]
    [InlineData(100, 40)]
    [InlineData(101, 3)]
    public void EqualsTheRecurrenceTokenByToken(long time, double decayScale)
    {
        const long batch = 2, channels = 3;
        using var scope = NewDisposeScope();
        manual_seed(7);
        var x = randn(batch, time, channels).requires_grad_(true);
        var g = (-randn(batch, time, channels).abs() * decayScale).detach().requires_grad_(true);
        var initial = randn(batch, channels).requires_grad_(true);
        var (upstreamY, upstreamState) = (randn(batch, time, channels), randn(batch, channels));

        var (y, state) = LinearRecurrence.Apply(x, g, initial);
        ((y * upstreamY).sum() + (state * upstreamState).sum()).backward();

        var naive = new Naive(Values.Of(x), Values.Of(g), Values.Of(initial), (int)batch, (int)time, (int)channels);
        var (gradX, gradG, gradInitial) = naive.Backward(Values.Of(upstreamY), Values.Of(upstreamState));
        Compare("y", naive.States, y);
        Compare("final state", naive.FinalState, state);
        Compare("gradient of x", gradX, x.grad!);
        Compare("gradient of g", gradG, g.grad!);
        Compare("gradient of the initial state", gradInitial, initial.grad!);

        void Compare(string what, double[] expected, Tensor actual) =>
            TensorAssert.Close(Values.Tensor32(expected, actual.shape), actual, Tolerance, $"T = {time}, decay {decayScale}: {what}");
    }

    [Theory]
    [InlineData(1, 1, 1)]
    [InlineData(2, 5, 3)]
    [InlineData(1, 17, 2)]
    public void GradientsAgreeWithFiniteDifferences(long batch, long time, long channels)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        FiniteDifferences.Check(
            x =>
            {
                var (y, state) = LinearRecurrence.Apply(x[0], x[1], x[2]);
                return [y, state];
            },
            [Random(batch, time, channels), -Random(batch, time, channels).exp(), Random(batch, channels)]);
    }

    [Fact]
    public void ExtremeInputsAndDecaysStayFinite()
    {
        const long time = 100;
        using var scope = NewDisposeScope();
        manual_seed(4);
        var x = (randn(2, time, 4) * 1e15).requires_grad_(true);
        var logs = tensor(new[] { 0f, -1e-8f, -1e4f, float.NegativeInfinity });
        var g = logs.expand(2, time, 4).clone().requires_grad_(true);
        var (y, state) = LinearRecurrence.Apply(x, g);
        (y.sum() + state.sum()).backward();
        Assert.All([y, state, x.grad!, g.grad!], value => Assert.True(value.detach().isfinite().all().ToBoolean()));

        // No decay adds up; full decay keeps the last input alone.
        TensorAssert.Close(x.narrow(2, 0, 1).cumsum(1), y.narrow(2, 0, 1), Tolerance, "decay 1");
        TensorAssert.Identical(x.narrow(2, 2, 2), y.narrow(2, 2, 2), "decay 0");
    }

    [Fact]
    public void PaddingLeavesTheStateAloneAndTakesNoGradient()
    {
        using var scope = NewDisposeScope();
        manual_seed(5);
        var x = randn(2, 11, 3).requires_grad_(true);
        var g = (-randn(2, 11, 3).abs()).detach().requires_grad_(true);
        var initial = randn(2, 3);
        var mask = arange(11).unsqueeze(0).lt(tensor(new long[] { 11, 4 }).unsqueeze(1));
        var (y, state) = LinearRecurrence.Apply(x, g, initial, mask);
        var (alone, last) = LinearRecurrence.Apply(x[1..2].narrow(1, 0, 4), g[1..2].narrow(1, 0, 4), initial[1..2]);
        TensorAssert.Close(alone, y[1..2].narrow(1, 0, 4), 1e-6, "outputs of the short row");
        TensorAssert.Close(last, state[1..2], 1e-6, "state of the short row");
        (y.sum() + state.sum()).backward();
        Assert.Equal(0, x.grad![1].narrow(0, 4, 7).abs().sum().ToDouble());
        Assert.Equal(0, g.grad![1].narrow(0, 4, 7).abs().sum().ToDouble());
        Assert.True(x.grad![1].narrow(0, 0, 4).abs().min().ToDouble() > 0);
    }

    [Fact]
    public void APackedRowIsItsSequencesApart()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        var (x, g) = (randn(1, 11, 3), -randn(1, 11, 3).abs());
        var restart = tensor(new[] { true, false, false, false, true, false, false, false, false, true, false }).unsqueeze(0);
        var (packed, _) = LinearRecurrence.Apply(x, g, restart: restart);
        foreach (var (start, length) in new[] { (0L, 4L), (4L, 5L), (9L, 2L) })
        {
            var (alone, _) = LinearRecurrence.Apply(x.narrow(1, start, length), g.narrow(1, start, length));
            TensorAssert.Close(alone, packed.narrow(1, start, length), 1e-6, $"the sequence at {start}");
        }
    }

    [Fact]
    public void HalfPrecisionIsComputedInFloat32()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(6);
        var (x, g) = (randn(2, 70, 3).to_type(ScalarType.BFloat16), -randn(2, 70, 3).abs().to_type(ScalarType.BFloat16));
        var (y, state) = LinearRecurrence.Apply(x, g);
        var (expected, last) = LinearRecurrence.Apply(x.to_type(ScalarType.Float32), g.to_type(ScalarType.Float32));
        Assert.Equal(ScalarType.BFloat16, y.dtype);
        TensorAssert.Identical(expected.to_type(ScalarType.BFloat16), y, "y, rounded once");
        TensorAssert.Identical(last, state, "the state");
    }

    [Fact]
    public void MismatchedShapesAreNamed()
    {
        using var scope = NewDisposeScope();
        var x = zeros(2, 5, 3);
        Expect("x must be [B, T, E], all at least 1; got [2, 5].", () => LinearRecurrence.Apply(zeros(2, 5), zeros(2, 5)));
        Expect("logDecay must be [2, 5, 3]; got [2, 4, 3].", () => LinearRecurrence.Apply(x, zeros(2, 4, 3)));
        Expect("initialState must be [2, 3]; got [1, 3].", () => LinearRecurrence.Apply(x, x, zeros(1, 3)));
        Expect("mask must be [2, 5]; got [2, 3].", () => LinearRecurrence.Apply(x, x, mask: zeros([2, 3], dtype: ScalarType.Bool)));
        Expect("restart must be [2, 5]; got [5].", () => LinearRecurrence.Apply(x, x, restart: zeros([5], dtype: ScalarType.Bool)));

        static void Expect(string text, Action action) =>
            Assert.StartsWith("LinearRecurrence: " + text, Assert.Throws<ArgumentException>(action).Message, StringComparison.Ordinal);
    }

    private static Tensor Random(params long[] shape) => randn(shape, dtype: ScalarType.Float64);

    /// <summary>The recurrence and its adjoint, token by token in double arithmetic.</summary>
    private sealed class Naive
    {
        private readonly double[] g;
        private readonly double[] initial;
        private readonly int batch;
        private readonly int time;
        private readonly int channels;

        public Naive(double[] x, double[] g, double[] initial, int batch, int time, int channels)
        {
            (this.g, this.initial, this.batch, this.time, this.channels) = (g, initial, batch, time, channels);
            States = new double[x.Length];
            FinalState = (double[])initial.Clone();
            for (var b = 0; b < batch; b++)
            {
                for (var t = 0; t < time; t++)
                {
                    for (var e = 0; e < channels; e++)
                    {
                        ref var h = ref FinalState[(b * channels) + e];
                        h = (Math.Exp(g[At(b, t, e)]) * h) + x[At(b, t, e)];
                        States[At(b, t, e)] = h;
                    }
                }
            }
        }

        public double[] States { get; }

        public double[] FinalState { get; }

        /// <summary>dL/dh_t = dL/dy_t + exp(g_(t+1)) dL/dh_(t+1); dL/dg_t = dL/dh_t exp(g_t) h_(t-1).</summary>
        public (double[] X, double[] G, double[] Initial) Backward(double[] upstreamY, double[] upstreamState)
        {
            var (gradX, gradG, flow) = (new double[States.Length], new double[States.Length], (double[])upstreamState.Clone());
            for (var b = 0; b < batch; b++)
            {
                for (var t = time - 1; t >= 0; t--)
                {
                    for (var e = 0; e < channels; e++)
                    {
                        ref var grad = ref flow[(b * channels) + e];
                        grad += upstreamY[At(b, t, e)];
                        gradX[At(b, t, e)] = grad;
                        var before = t == 0 ? initial[(b * channels) + e] : States[At(b, t - 1, e)];
                        grad *= Math.Exp(g[At(b, t, e)]);
                        gradG[At(b, t, e)] = grad * before;
                    }
                }
            }

            return (gradX, gradG, flow);
        }

        private int At(int b, int t, int e) => (((b * time) + t) * channels) + e;
    }
}
