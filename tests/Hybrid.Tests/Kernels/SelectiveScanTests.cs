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

    /// <summary>Every case with the kernel that the dispatcher picks, and with the reference kernel.</summary>
    public static TheoryData<string, bool> CasesAndKernels
    {
        get
        {
            var data = new TheoryData<string, bool>();
            foreach (var row in Cases)
            {
                data.Add(row.Data, false);
                data.Add(row.Data, true);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(CasesAndKernels))]
    public void EqualsTheReferenceImplementation(string name, bool referenceKernel)
    {
        using var scope = NewDisposeScope();
        using var kernels = new KernelChoice(referenceKernel);
        using var golden = GoldenCases.Load("selective_scan", name);
        var inputs = golden.Inputs();
        var (y, state) = Run(inputs, golden.Flag("delta_softplus")?.GetBoolean() ?? false);

        TensorAssert.Close(golden.Get("out.y"), y.transpose(1, 2), Tolerance, $"{name} y");
        TensorAssert.Close(golden.Get("out.last_state"), state, Tolerance, $"{name} last_state");
        if (!golden.Names.Any(tensor => tensor.StartsWith("grad.", StringComparison.Ordinal)))
        {
            return;
        }

        golden.Loss(("y", y.transpose(1, 2)), ("last_state", state)).backward();
        golden.CheckGradients(inputs, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void AStateAfterAnyPrefixContinuesTheScan(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("selective_scan", name);
        var inputs = golden.Inputs();
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

    [Theory]
    [InlineData(1, 1, 1, 1)]
    [InlineData(2, 2, 3, 2)]
    [InlineData(1, 63, 15, 5)]
    [InlineData(3, 32, 16, 16)]
    [InlineData(2, 33, 17, 16)]
    [InlineData(1, 100, 129, 7)]
    [InlineData(2, 65, 260, 3)]
    public void TheCpuKernelEqualsTheReferenceKernel(long batch, long time, long channels, long stateSize)
    {
        using var scope = NewDisposeScope();
        manual_seed(9);
        Tensor[] inputs =
        [
            randn(batch, time, channels), randn(batch, time, channels), -randn(channels, stateSize).exp(), randn(batch, time, stateSize),
            randn(batch, time, stateSize), randn(channels), randn(batch, time, channels), randn(channels), randn(batch, channels, stateSize),
        ];
        Assert.True(SelectiveScan.CanRunOnCpu(out var reason, ("u", inputs[0])), reason);

        TensorAssert.AllClose(Results(true), Results(false), Tolerance, "scan");

        Tensor[] Results(bool referenceKernel)
        {
            using var kernels = new KernelChoice(referenceKernel);
            return Differentiation.Results(inputs, x => SelectiveScan.Apply(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], true, x[8]));
        }
    }

    public static TheoryData<long, long, long, long, string, string, string> Forms => ScanKernelCase.All;

    /// <summary>The forms of B and C, padding, packed rows and limits of the step sizes.</summary>
    [Theory]
    [MemberData(nameof(Forms))]
    public void EveryFormOfTheKernelEqualsTheReference(long batch, long time, long channels, long n, string formOfB, string formOfC, string with) =>
        ScanKernelCase.Check(ScanOnCpu.Instance, CPU, Tolerance, batch, time, channels, n, formOfB, formOfC, with);

    [Fact]
    public void TheKernelReadsSlicesOfLargerTensors()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var (wide, matrices, a) = (randn(2, 40, 60), randn(2, 40, 9), -randn(20, 3).exp());
        var parts = wide.chunk(3, -1);
        var ofB = matrices.narrow(-1, 1, 3);
        var ofC = matrices.narrow(-1, 5, 3);
        var (fromSlices, _) = SelectiveScan.Apply(parts[0], parts[1], a, ofB, ofC, z: parts[2], deltaSoftplus: true);
        var (fromCopies, _) = SelectiveScan.Apply(
            parts[0].contiguous(), parts[1].contiguous(), a, ofB.contiguous(), ofC.contiguous(), z: parts[2].contiguous(), deltaSoftplus: true);
        TensorAssert.Identical(fromCopies, fromSlices, "slices and copies");
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, 1e-2)]
    [InlineData(ScalarType.Float16, 2e-3)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType dtype, double roundingOfY)
    {
        using var scope = NewDisposeScope();
        manual_seed(23);
        Tensor[] inputs = [.. new[] { randn(1, 33, 10), randn(1, 33, 10), randn(1, 33, 4), randn(1, 33, 4) }.Select(x => x.to_type(dtype))];
        var a = -randn(10, 4).exp();
        var (y, state) = SelectiveScan.Apply(inputs[0], inputs[1], a, inputs[2], inputs[3], deltaSoftplus: true, scanType: ScanType.Fused);
        var wide = inputs.Select(x => x.to_type(ScalarType.Float32)).ToArray();
        var (expected, expectedState) = SelectiveScan.Apply(wide[0], wide[1], a, wide[2], wide[3], deltaSoftplus: true, scanType: ScanType.Associative);
        Assert.Equal((dtype, ScalarType.Float32), (y.dtype, state.dtype));
        TensorAssert.Close(expected, y, roundingOfY, "y");
        TensorAssert.Close(expectedState, state, Tolerance, "state");
    }

    [Fact]
    public void NaNStaysInItsChannelAndItsFuture()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(24);
        var u = randn(1, 50, 20);
        u[0, 40, 7] = float.NaN;
        var (y, state) = SelectiveScan.Apply(u, randn(1, 50, 20), -randn(20, 3).exp(), randn(1, 50, 3), randn(1, 50, 3), deltaSoftplus: true);
        var expected = zeros([1, 50, 20], dtype: ScalarType.Bool);
        expected[0, TensorIndex.Slice(40), 7] = true;
        TensorAssert.Identical(expected, y.isnan(), "where y is NaN");
        Assert.Equal(3, state.isnan().sum().ToInt64());
    }

    [Fact]
    public void ResultsDoNotDependOnTheNumberOfThreads()
    {
        using var scope = NewDisposeScope();
        manual_seed(10);
        Tensor[] inputs =
        [
            randn(3, 70, 300), randn(3, 70, 300), -randn(300, 6).exp(), randn(3, 70, 6), randn(3, 70, 6), randn(300), randn(3, 70, 300), randn(300),
        ];
        ThreadCount.ChangesNothing(() => Differentiation.Results(
            inputs, x => SelectiveScan.Apply(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], true)));
    }

    [Fact]
    public void LimitsThatCrossAreRefused()
    {
        using var scope = NewDisposeScope();
        var (u, a) = (zeros(1, 2, 3), zeros(3, 4));
        var error = Assert.Throws<ArgumentException>(() => SelectiveScan.Apply(u, u, a, a, a, deltaMin: 2, deltaMax: 1));
        Assert.StartsWith("SelectiveScan: deltaMax must be at least deltaMin, 2; got 1.", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TheOutputDependsOnC()
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.First("selective_scan");
        var inputs = golden.Inputs();
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

    /// <summary>Part of a case's inputs, which have time last.</summary>
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
