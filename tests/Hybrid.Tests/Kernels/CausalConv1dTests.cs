using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class CausalConv1dTests
{
    // At most seven products a sum: float32 rounding only.
    private const double Tolerance = 2e-6;

    public static TheoryData<string> Cases => GoldenCases.Of("causal_conv1d");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("causal_conv1d", name);
        var leaves = golden.Inputs();
        var weight = leaves["weight"];
        var context = weight.size(1) - 1;
        var history = leaves.GetValueOrDefault("initial_states") ?? leaves.GetValueOrDefault("conv_state");
        var state = history is null ? null : Newest(history, context).transpose(1, 2);

        var (y, final) = CausalConv1d.Apply(
            leaves["x"].transpose(1, 2), weight, leaves.GetValueOrDefault("bias"), ActivationOf(golden), state);

        TensorAssert.Close(golden.Get("out.y"), y.transpose(1, 2), Tolerance, $"{name} y");
        var expectedState = golden.Find("out.final_states") ?? golden.Get("out.conv_state");
        TensorAssert.Identical(Newest(expectedState, context), final.transpose(1, 2), $"{name} state");
        if (golden.Has("upstream.y"))
        {
            golden.Loss(("y", y.transpose(1, 2))).backward();
            golden.CheckGradients(leaves, Tolerance);
        }
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 4)]
    [InlineData(9, 3)]
    public void GradientsAgreeWithFiniteDifferences(long time, long width)
    {
        using var scope = NewDisposeScope();
        manual_seed(4);
        FiniteDifferences.Check(
            x =>
            {
                var (y, state) = CausalConv1d.Apply(x[0], x[1], x[2], Activation.Silu, x.Length > 3 ? x[3] : null);
                return width == 1 ? [y] : [y, state];
            },
            width == 1
                ? [Random(2, time, 3), Random(3, width), Random(3)]
                : [Random(2, time, 3), Random(3, width), Random(3), Random(2, width - 1, 3)]);

        static Tensor Random(params long[] shape) => randn(shape, dtype: ScalarType.Float64);
    }

    public static TheoryData<long, long, long, long, string> KernelCases => ConvKernelCase.All;

    [Theory]
    [MemberData(nameof(KernelCases))]
    public void TheCpuKernelEqualsTheReference(long batch, long time, long channels, long width, string with) =>
        ConvKernelCase.Check(ConvOnCpu.Instance, CPU, Tolerance, batch, time, channels, width, with);

    [Theory]
    [InlineData(3)]
    [InlineData(4)]
    public void NotANumberReachesTheStepsOfItsWindowAlone(long width)
    {
        using var scope = NewDisposeScope();
        manual_seed(14);
        var (x, upstream) = (randn(1, 40, 19), randn(1, 40, 19));
        x[0, 13, 18] = float.NaN;
        x[0, 30, 2] = float.PositiveInfinity;
        var weight = rand(19, width) + 0.5;
        var (y, gradient) = Run(fused: true);
        var (expected, expectedGradient) = Run(fused: false);
        Assert.Equal(width, y.narrow(1, 13, width).select(2, 18).isnan().sum().ToInt64());
        Assert.Equal(width, y.narrow(1, 30, width).select(2, 2).isinf().sum().ToInt64());
        Assert.Equal(2 * width, y.isfinite().logical_not().sum().ToInt64());
        TensorAssert.Identical(expected.isfinite(), y.isfinite(), "y is finite");
        TensorAssert.Identical(expectedGradient.isfinite(), gradient.isfinite(), "the gradient is finite");

        (Tensor Y, Tensor Gradient) Run(bool fused)
        {
            var leaf = x.detach().clone().requires_grad_(true);
            var (y, _) = CausalConv1d.Apply(leaf, weight, null, Activation.Silu, fused: fused);
            y.backward([upstream]);
            return (y.detach(), leaf.grad!);
        }
    }

    [Theory]
    [InlineData(3)]
    [InlineData(4)]
    public void ResultsDoNotDependOnTheNumberOfThreads(long width)
    {
        using var scope = NewDisposeScope();
        manual_seed(13);
        Tensor[] inputs = [randn(3, 170, 600), randn(600, width), randn(600)];
        ThreadCount.ChangesNothing(() => Differentiation.Results(inputs, x => CausalConv1d.Apply(x[0], x[1], x[2], Activation.Silu)));
    }

    [Fact]
    public void AStateDoesNotShareMemoryWithTheInput()
    {
        using var scope = NewDisposeScope();
        var x = ones(1, 8, 3);
        var (_, state) = CausalConv1d.Apply(x, ones(3, 4));
        x.zero_();
        Assert.Equal(9f, state.sum().ToSingle());
    }

    [Fact]
    public void TapsDoNotReachIntoAnotherPackedSequence()
    {
        using var scope = NewDisposeScope();
        manual_seed(6);
        var (x, weight) = (randn(1, 9, 2), randn(2, 4));
        var ids = tensor(new long[] { 5, 5, 5, 1, 1, 1, 1, 5, 5 }).unsqueeze(0);
        var (packed, _) = CausalConv1d.Apply(x, weight, sequenceIds: ids);
        foreach (var (start, length) in new[] { (0L, 3L), (3L, 4L), (7L, 2L) })
        {
            var (alone, _) = CausalConv1d.Apply(x.narrow(1, start, length), weight);
            TensorAssert.Close(alone, packed.narrow(1, start, length), 1e-6, $"the sequence at {start}");
        }
    }

    private static Tensor Newest(Tensor state, long count) => state.narrow(2, state.size(2) - count, count);

    private static Activation ActivationOf(GoldenCase golden) => golden.Flag("activation")?.GetString() switch
    {
        null => Activation.Identity,
        "silu" or "swish" => Activation.Silu,
        var other => throw new InvalidOperationException($"unknown activation {other}"),
    };
}
