using Hybrid.Kernels;
using Hybrid.Layers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>Second derivatives through the fast kernels, which are float32, and through their references.</summary>
public class RecordedGradientTests
{
    // Second derivatives of float32 functions that sum up to a hundred products, against float64.
    private const double Tolerance = 2e-5;

    /// <summary>
    /// A step of differences in float32. Rounding of the gradients, about 1e-6 of their size, becomes 1e-4 of it; what a difference of fourth
    /// order leaves out is 1e-8 times a fifth derivative, which in the scan, of thousands of elements that move at once, reaches 1e-4 too.
    /// </summary>
    private const float Step = 1e-2f;
    private const double DifferenceTolerance = 1e-3;

    /// <summary>A kernel as a function of leaves; inputs depend on one another, as in a layer.</summary>
    private static readonly Dictionary<string, (Func<Tensor[]> Leaves, Func<Tensor[], Tensor[]> Function)> Kernels = new()
    {
        ["scan"] = (() => ScanLeaves(37, 19, 3), x => Scan(x, null, null)),
        ["scan of one step"] = (() => ScanLeaves(1, 5, 2), x => Scan(x, null, null)),
        ["scan of padded packed rows"] = (
            () => ScanLeaves(35, 5, 4),
            x => Scan(x, Values.Normal(11, 2, 35).gt(-1), Values.Normal(12, 2, 35).gt(1))),
        ["scan whose state has no gradient"] = (() => ScanLeaves(9, 4, 3), x => [Scan(x, null, null, stateGradient: false)[0]]),
        ["state-space duality"] = (
            () => [Values.Normal(1, 2, 35, 2, 5), Values.Normal(2, 2), Values.Normal(3, 2, 35, 1, 3), Values.Normal(4, 2, 2, 5, 3)], Duality),
        ["gated delta rule"] = (
            () => [Values.Normal(1, 2, 35, 2, 5), Values.Normal(2, 2, 35, 2), Values.Normal(3, 2, 35, 2, 4), Values.Normal(4, 2, 2, 5, 4)], Delta),
        ["convolution"] = (ConvolutionLeaves, x => [CausalConv1d.Apply(x[0], x[1], x[2], Activation.Silu, x[3]).Y]),
        ["convolution of packed rows"] = (
            ConvolutionLeaves,
            x => [CausalConv1d.Apply(x[0], x[1], x[2], Activation.Silu, null, null, Values.Normal(5, 2, 20).gt(1).to_type(ScalarType.Int64).cumsum(1)).Y, x[3]]),
        ["convolution with another activation"] = (ConvolutionLeaves, x => [CausalConv1d.Apply(x[0], x[1], x[2], Activation.Gelu, x[3]).Y]),
        ["linear recurrence"] = (() => ChannelLeaves(37, 19), x => [.. Outputs(LinearRecurrence.Apply(x[0] * x[2], x[0].sin() - 1, x[1]))]),
        ["gated average"] = (
            () => ChannelLeaves(37, 19),
            x => [.. Outputs(GatedAverage.Apply(cat([x[0], x[0].cos()], -1), x[2], x[0] * 0.5, x[1], Values.Normal(11, 2, 37).gt(-1)))]),
        ["rg-lru"] = (
            () => ChannelLeaves(37, 19),
            x => [.. Outputs(RgLru.Apply(
                x[0], x[2].view(19, 1, 1), x[2].view(19, 1), x[2].cos().view(19, 1, 1), x[2].view(19, 1), x[2], x[1], Values.Normal(12, 2, 37).gt(1)))]),
        ["wkv"] = (() => ChannelLeaves(37, 19), x => Sums(WkvForm.DataDependent, x, x[0].sin())),
        ["wkv of rwkv-4"] = (() => ChannelLeaves(37, 19), x => Sums(WkvForm.Rwkv4, x, x[2] - 1)),
        ["gru"] = (
            () => [Values.Normal(1, 2, 9, 15), Values.Normal(2, 2, 5), Values.Normal(3, 15, 5) * 0.4f, Values.Normal(4, 15)],
            x => [GatedRecurrentUnit.Apply(x[0], x[2], x[3], x[1])]),
        ["norm"] = (() => [Values.Normal(1, 3, 37), Values.Normal(2, 37)], x => [Norm(x[0], x[1])]),
        ["norm twice"] = (() => [Values.Normal(1, 3, 37), Values.Normal(2, 37)], x => [Norm(Norm(x[0], x[1]) * x[0].sin(), x[1])]),
        ["norm after a gate"] = (
            () => [Values.Normal(1, 3, 38), Values.Normal(2, 38)], x => [Norm(x[0], x[1], x[0].sin(), GateOrder.BeforeNorm, 2)]),
        ["norm before a gate"] = (
            () => [Values.Normal(1, 3, 37), Values.Normal(2, 37)], x => [Norm(x[0], x[1], x[0].sin(), GateOrder.AfterNorm)]),
        ["rotation"] = (
            () => [Values.Normal(1, 2, 3, 5, 37)], x => [Rotated(x[0], Values.Normal(2, 1, 1, 5, 17).to_type(x[0].dtype))]),
    };

    public static TheoryData<string> Names => [.. Kernels.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public void SecondDerivativesEqualThoseOfTheReference(string name)
    {
        using var scope = NewDisposeScope();
        var (leaves, function) = Kernels[name];
        var fast = Second(function, [.. leaves().Select(Leaf)]);
        using var kernels = new KernelChoice(referenceOnly: true);
        var reference = Second(function, [.. leaves().Select(leaf => Leaf(leaf.@double()))]);
        TensorAssert.AllClose(reference, fast, Tolerance, $"{name}, gradients and their derivatives");
    }

    /// <summary>The derivative along a direction equals the difference of gradients that the fast backward pass computes.</summary>
    [Theory]
    [MemberData(nameof(Names))]
    public void SecondDerivativesAreDifferencesOfTheFastGradients(string name)
    {
        using var scope = NewDisposeScope();
        var (make, function) = Kernels[name];
        Tensor[] leaves = [.. make().Select(Leaf)];
        Tensor[] directions = [.. leaves.Select((leaf, i) => Values.Normal((ulong)(40 + i), leaf.shape))];
        var analytic = Second(function, leaves)[leaves.Length..].Zip(directions, (second, direction) => (second * direction).sum().ToDouble()).Sum();
        var numeric = ((8 * (Projected(Step) - Projected(-Step))) - (Projected(2 * Step) - Projected(-2 * Step))) / (12 * Step);
        Assert.InRange(numeric, analytic - Allowed(), analytic + Allowed());

        double Allowed() => DifferenceTolerance * Math.Max(Math.Abs(analytic), Math.Sqrt(leaves.Sum(leaf => leaf.numel())));

        double Projected(float step)
        {
            Tensor[] moved = [.. leaves.Zip(directions, (leaf, direction) => Leaf(leaf + (direction * step)))];
            Loss(function(moved)).backward();
            return moved.Select((leaf, i) => (leaf.grad!.@double() * Weight(leaf, i)).sum().ToDouble()).Sum();
        }
    }

    [Fact]
    public void AnUnrecordedBackwardPassStaysFast()
    {
        using var scope = NewDisposeScope();
        var x = Leaf(Values.Normal(1, 3, 37));
        var gradient = autograd.grad([Norm(x, ones(37)).sum()], [x])[0];
        Assert.False(gradient.requires_grad);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void NoTensorIsLeftBehind(string name)
    {
        var (leaves, function) = Kernels[name];
        Run();
        var before = LiveTensors.Before();
        Run();
        Assert.Equal(before, LiveTensors.Before());

        void Run()
        {
            using var scope = NewDisposeScope();
            Second(function, [.. leaves().Select(Leaf)]);
        }
    }

    private static Tensor[] ScanLeaves(long time, long channels, long n) =>
    [
        Values.Normal(1, 2, time, channels), Values.Normal(2, channels, n), Values.Normal(3, 2, time, n), Values.Normal(4, channels),
        Values.Normal(5, 2, channels, n),
    ];

    private static Tensor[] Scan(Tensor[] x, Tensor? mask, Tensor? restart, bool stateGradient = true)
    {
        var (y, state) = SelectiveScan.Apply(
            x[0], x[0].sin(), x[1].exp().neg(), x[2], x[2].cos(), x[3], x[0] * 0.5, x[3] * 0.5, true, x[4], mask, restart, stateGradient);
        return [y, state];
    }

    private static Tensor[] Duality(Tensor[] x)
    {
        var (y, state) = StateSpaceDuality.Apply(
            x[0], x[0].select(-1, 0).sin(), x[1].exp().neg(), x[2], x[2].cos(), x[1], x[0] * 0.5, x[1] * 0.5, true, initialState: x[3]);
        return [y, state];
    }

    private static Tensor[] Delta(Tensor[] x)
    {
        var (o, state) = GatedDelta.Apply(x[0], x[0].sin(), x[2], x[1].sigmoid(), -x[1].exp(), normalise: true, initialState: x[3]);
        return [o, state];
    }

    private static Tensor[] ChannelLeaves(long time, long channels) => [Values.Normal(1, 2, time, channels), Values.Normal(2, 2, channels), Values.Normal(3, channels)];

    private static Tensor[] Outputs((Tensor Y, Tensor State) results) => [results.Y, results.State];

    private static Tensor[] Sums(WkvForm form, Tensor[] x, Tensor decay)
    {
        var (y, state) = Wkv.Apply(
            form, decay, x[2], x[0], x[0].cos(), new WkvState(x[1], x[1].exp(), zeros_like(x[1])), receptance: x[0] * 0.5);
        return [y, state.Numerator * state.Maximum.exp(), state.Denominator * state.Maximum.exp()];
    }

    private static Tensor[] ConvolutionLeaves() => [Values.Normal(1, 2, 20, 19), Values.Normal(2, 19, 4), Values.Normal(3, 19), Values.Normal(4, 2, 3, 19)];

    private static Tensor Norm(Tensor x, Tensor weight, Tensor? gate = null, GateOrder order = GateOrder.None, long groups = 1)
    {
        var form = new NormForm(0.1, order, groups);
        return RootMeanSquare.CanRun(x, weight, gate) ? RootMeanSquare.Apply(x, weight, form, gate) : RootMeanSquare.Reference(x, weight, gate, form);
    }

    private static Tensor Rotated(Tensor x, Tensor turns)
    {
        var angles = (turns.cos(), turns.sin());
        return Rotation.CanRun(x, angles) ? Rotation.Apply(x, angles) : Rotation.Reference(x, angles);
    }

    /// <summary>Gradients of a loss, and the gradients of a projection of those.</summary>
    private static List<Tensor> Second(Func<Tensor[], Tensor[]> function, Tensor[] leaves)
    {
        var gradients = autograd.grad([Loss(function(leaves))], leaves, retain_graph: true, create_graph: true);
        gradients.Select((gradient, i) => (gradient * Weight(gradient, i)).sum()).Aggregate((a, b) => a + b).backward();
        return [.. gradients.Select(gradient => gradient.detach()), .. leaves.Select(leaf => leaf.grad!)];
    }

    /// <summary>Not linear in the outputs, so that the gradients that arrive have a history too.</summary>
    private static Tensor Loss(Tensor[] outputs) =>
        outputs.Select((output, i) => (output.sin() * Values.Normal((ulong)(20 + i), output.shape).to_type(output.dtype)).sum()).Aggregate((a, b) => a + b);

    private static Tensor Weight(Tensor leaf, int index) => Values.Normal((ulong)(30 + index), leaf.shape).to_type(leaf.dtype);

    private static Tensor Leaf(Tensor values) => values.detach().clone().requires_grad_(true);
}
