using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

public class SelectiveScanTests
{
    // Cases were rounded to float32 from float64, so this is the rounding of a float32 kernel over up to about a thousand steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("selective_scan");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("selective_scan", name);
        var inputs = Inputs(golden);
        var (y, state) = Run(inputs, golden.Flag("delta_softplus")?.GetBoolean() ?? false);

        TensorAssert.Close(golden.Get("out.y"), y.transpose(1, 2), Tolerance, $"{name} y");
        TensorAssert.Close(golden.Get("out.last_state"), state, Tolerance, $"{name} last_state");
        if (!golden.Names.Any(tensor => tensor.StartsWith("grad.", StringComparison.Ordinal)))
        {
            return;
        }

        golden.Loss(("y", y.transpose(1, 2)), ("last_state", state)).backward();
        foreach (var (key, input) in inputs)
        {
            TensorAssert.Close(golden.Get("grad." + key), input.grad!, Tolerance, $"{name} gradient of {key}");
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void AStateAfterAnyPrefixContinuesTheScan(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("selective_scan", name);
        var inputs = Inputs(golden);
        var softplus = golden.Flag("delta_softplus")?.GetBoolean() ?? false;
        var length = inputs["u"].size(2);
        foreach (var split in new[] { 1, length / 2, length - 1 }.Where(split => split > 0 && split < length))
        {
            var (first, middle) = Run(Slice(inputs, 0, split), softplus);
            var rest = Slice(inputs, split, length - split);
            rest["initial_state"] = middle;
            var (second, last) = Run(rest, softplus);
            TensorAssert.Close(golden.Get("out.y"), cat([first, second], 1).transpose(1, 2), Tolerance, $"{name} y split at {split}");
            TensorAssert.Close(golden.Get("out.last_state"), last, Tolerance, $"{name} last_state split at {split}");
        }
    }

    [Theory]
    [InlineData(1, 1, 1, 1)]
    [InlineData(2, 5, 3, 4)]
    [InlineData(1, 17, 2, 3)]
    public void GradientsAgreeWithFiniteDifferences(long batch, long time, long channels, long stateSize)
    {
        using var scope = NewDisposeScope();
        manual_seed(3);
        Tensor[] inputs =
        [
            Random(batch, time, channels), Random(batch, time, channels), -Random(channels, stateSize).exp(), Random(batch, time, stateSize),
            Random(batch, time, stateSize), Random(channels), Random(batch, time, channels), Random(channels), Random(batch, channels, stateSize),
        ];
        FiniteDifferences.Check(
            x =>
            {
                var (y, state) = SelectiveScan.Apply(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], true, x[8]);
                return [y, state];
            },
            inputs);
    }

    [Fact]
    public void TheOutputDependsOnC()
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.First("selective_scan");
        var inputs = Inputs(golden);
        var (before, _) = Run(inputs, true);
        inputs["C"] = inputs["C"] * 1.5;
        var (after, _) = Run(inputs, true);
        Assert.True(TensorAssert.RelativeError(before, after) > 0.05);
    }

    [Fact]
    public void APackedRowIsItsSequencesApart()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        var (u, delta, b, c) = (randn(1, 11, 3), randn(1, 11, 3), randn(1, 11, 4), randn(1, 11, 4));
        var a = -randn(3, 4).exp();
        var restart = tensor(new[] { false, false, false, false, true, false, false, false, false, true, false }).unsqueeze(0);
        var (packed, _) = SelectiveScan.Apply(u, delta, a, b, c, deltaSoftplus: true, restart: restart);
        foreach (var (start, length) in new[] { (0L, 4L), (4L, 5L), (9L, 2L) })
        {
            var (alone, _) = SelectiveScan.Apply(
                u.narrow(1, start, length), delta.narrow(1, start, length), a, b.narrow(1, start, length), c.narrow(1, start, length), deltaSoftplus: true);
            TensorAssert.Close(alone, packed.narrow(1, start, length), 1e-6, $"the sequence at {start}");
        }
    }

    [Fact]
    public void MismatchedShapesAreNamed()
    {
        using var scope = NewDisposeScope();
        var (u, a, bc) = (zeros(2, 5, 3), zeros(3, 4), zeros(2, 5, 4));
        var error = Assert.Throws<ArgumentException>(() => SelectiveScan.Apply(u, zeros(2, 4, 3), a, bc, bc));
        Assert.StartsWith("SelectiveScan: delta must be [2, 5, 3]; got [2, 4, 3].", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ArgumentException>(() => SelectiveScan.Apply(u, u, a, zeros(2, 5, 2, 4), bc));
        Assert.Contains("B must be [2, 5, 4], [2, 5, G, 4] with G dividing 3, or [3, 4]; got [2, 5, 2, 4].", error.Message, StringComparison.Ordinal);
    }

    private static Tensor Random(params long[] shape) => randn(shape, dtype: ScalarType.Float64);

    /// <summary>The inputs of a case, time last as the case has them, each a leaf.</summary>
    private static Dictionary<string, Tensor> Inputs(GoldenCase golden) =>
        golden.Names.Where(name => name.StartsWith("in.", StringComparison.Ordinal))
            .ToDictionary(name => name[3..], name => golden.Get(name).requires_grad_(true));

    private static Dictionary<string, Tensor> Slice(Dictionary<string, Tensor> inputs, long start, long length)
    {
        var time = inputs["u"].size(2);
        return inputs.ToDictionary(
            entry => entry.Key,
            entry => entry.Key is "u" or "delta" or "z" || (entry.Key is "B" or "C" && entry.Value.dim() > 2 && entry.Value.size(-1 + (int)entry.Value.dim()) == time)
                ? entry.Value.narrow(-1, start, length)
                : entry.Value);
    }

    private static (Tensor Y, Tensor State) Run(Dictionary<string, Tensor> inputs, bool softplus) => SelectiveScan.Apply(
        inputs["u"].transpose(1, 2),
        inputs["delta"].transpose(1, 2),
        inputs["A"],
        TimeFirst(inputs["B"]),
        TimeFirst(inputs["C"]),
        inputs.GetValueOrDefault("D"),
        inputs.GetValueOrDefault("z")?.transpose(1, 2),
        inputs.GetValueOrDefault("delta_bias"),
        softplus,
        inputs.GetValueOrDefault("initial_state"));

    private static Tensor TimeFirst(Tensor matrix) => matrix.dim() switch
    {
        2 => matrix,
        3 => matrix.transpose(1, 2),
        _ => matrix.permute(0, 3, 1, 2),
    };
}
