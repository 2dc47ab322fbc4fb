using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Properties;

public class KernelPropertyTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void SelectiveScanIsFiniteAndContinuesAnywhere(bool referenceKernel) => ForAll(sizes =>
    {
        var (channels, states) = (sizes.First * sizes.Heads, sizes.Second);
        using var kernels = new KernelChoice(referenceKernel);
        KernelProperties.HoldFor(
            sizes,
            [
                Large(sizes, channels), Steps(sizes, channels) * 3, Large(sizes, states), Large(sizes, states), Large(sizes, channels),
            ],
            [randn(channels, states).exp() * -sizes.Decay, randn(channels), randn(channels)],
            (x, c, state) =>
            {
                var (y, last) = SelectiveScan.Apply(x[0], x[1], c[0], x[2], x[3], c[1], x[4], c[2], true, state?[0]);
                return (y, [last]);
            });
    });

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void StateSpaceDualityIsFiniteAndContinuesAnywhere(bool referenceKernel) => ForAll(sizes =>
    {
        using var kernels = new KernelChoice(referenceKernel);
        // Heads come in two groups, each with its own input and output matrix.
        var (heads, width, states) = (2 * sizes.Heads, sizes.First, sizes.Second);
        KernelProperties.HoldFor(
            sizes,
            [
                Large(sizes, heads, width), Steps(sizes, heads) * 3, Large(sizes, 2, states), Large(sizes, 2, states),
                Large(sizes, heads, width),
            ],
            [randn(heads).exp() * -sizes.Decay, randn(heads), randn(heads)],
            (x, c, state) =>
            {
                var (y, last) = StateSpaceDuality.Apply(x[0], x[1], c[0], x[2], x[3], c[1], x[4], c[2], true, initialState: state?[0]);
                return (y, [last]);
            });
    });

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void GatedDeltaIsFiniteAndContinuesAnywhere(bool referenceKernel) => ForAll(sizes =>
    {
        using var kernels = new KernelChoice(referenceKernel);
        // Keys of width 1 would be normalised to 1 or -1, whose gradients are nothing but rounding.
        var (heads, keyWidth, valueWidth) = (sizes.Heads, sizes.First + 1, sizes.Second);
        KernelProperties.HoldFor(
            sizes,
            [
                Large(sizes, heads, keyWidth), Large(sizes, heads, keyWidth), Large(sizes, heads, valueWidth),
                Steps(sizes, heads).sigmoid(), LogDecays(sizes, heads),
            ],
            [],
            (x, _, state) =>
            {
                var (o, last) = GatedDelta.Apply(x[0], x[1], x[2], x[3], x[4], normalise: true, initialState: state?[0]);
                return (o, [last]);
            });
    });

    [Fact]
    public void LinearRecurrenceIsFiniteAndContinuesAnywhere() => ForAll(sizes =>
    {
        var channels = sizes.First * sizes.Heads;
        KernelProperties.HoldFor(
            sizes,
            [Large(sizes, channels), LogDecays(sizes, channels)],
            [],
            (x, _, state) =>
            {
                var (y, last) = LinearRecurrence.Apply(x[0], x[1], state?[0]);
                return (y, [last]);
            });
    });

    [Fact]
    public void WkvWithADecayForEachTokenIsFiniteAndContinuesAnywhere() => ForAll(sizes =>
    {
        var channels = sizes.First * sizes.Heads;
        KernelProperties.HoldFor(
            sizes,
            [Steps(sizes, channels) + Math.Log(sizes.Decay), Keys(sizes, channels), Steps(sizes, channels)],
            [randn(channels)],
            (x, c, state) => RunWkv(WkvForm.DataDependent, x[0], c[0], x[1], x[2], state),
            Mean);
    });

    [Fact]
    public void WkvOfRwkv4IsFiniteAndContinuesAnywhere() => ForAll(sizes =>
    {
        var channels = sizes.First * sizes.Heads;
        KernelProperties.HoldFor(
            sizes,
            [Keys(sizes, channels), Steps(sizes, channels)],
            [randn(channels) + Math.Log(sizes.Decay), randn(channels)],
            (x, c, state) => RunWkv(WkvForm.Rwkv4, c[0], c[1], x[0], x[1], state),
            Mean);
    });

    [Theory]
    [InlineData(Activation.Identity)]
    [InlineData(Activation.Silu)]
    public void CausalConv1dIsFiniteAndContinuesAnywhere(Activation activation) => ForAll(sizes =>
    {
        var (channels, taps) = (sizes.First * sizes.Heads, sizes.Second);
        KernelProperties.HoldFor(
            sizes,
            [Large(sizes, channels)],
            [randn(channels, taps) * sizes.Size, randn(channels)],
            (x, c, state) =>
            {
                var (y, last) = CausalConv1d.Apply(x[0], c[0], c[1], activation, state?[0]);
                return (y, [last]);
            });
    });

    private static void ForAll(Action<KernelCase> property) => KernelCase.ForAll(sizes =>
    {
        using var scope = NewDisposeScope();
        manual_seed(sizes.Seed);
        property(sizes);
    });

    private static Tensor Steps(KernelCase sizes, params long[] shape) => randn([sizes.Batch, sizes.Time, .. shape]);

    private static Tensor Large(KernelCase sizes, params long[] shape) => Steps(sizes, shape) * sizes.Size;

    /// <summary>Log weights up to a few hundred: e^88 overflows, yet their own rounding stays below the tolerance.</summary>
    private static Tensor Keys(KernelCase sizes, long channels) => Steps(sizes, channels) * Math.Sqrt(sizes.Size);

    /// <summary>Log decays around the case's, some a hundred times weaker or stronger: one sequence both remembers and forgets.</summary>
    private static Tensor LogDecays(KernelCase sizes, params long[] shape) => (Steps(sizes, shape) * 2).exp() * -sizes.Decay;

    private static (Tensor Y, Tensor[] State) RunWkv(WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, Tensor[]? state)
    {
        WkvState? initial = state is null ? null : new WkvState(state[0], state[1], state[2]);
        var (y, last) = Wkv.Apply(form, decay, bonus, key, value, initial);
        return (y, [last.Numerator, last.Denominator, last.Maximum]);
    }

    /// <summary>N / M. Either alone is relative to the maximum, which is rounded in other places after two calls than after one.</summary>
    private static Tensor[] Mean(Tensor[] state) => [state[0] / state[1]];
}
