using Hybrid.Kernels;
using Hybrid.Kernels.Cuda;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>The scan's CUDA kernels, on a CPU in the place of a device.</summary>
public class ScanOnCudaTests
{
    // Rounding of a float32 kernel over up to about a thousand steps; sums of 65,536 steps round ten times as much.
    private const double Tolerance = 1e-5;
    private const double LongTolerance = 1e-4;

    public static TheoryData<long, long, long, long, string, string, string> Cases => ScanKernelCase.All;

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReference(long batch, long time, long channels, long n, string formOfB, string formOfC, string with) =>
        ScanKernelCase.Check(new ScanOnCuda(HostCuda.Runtime()), CPU, Tolerance, batch, time, channels, n, formOfB, formOfC, with);

    /// <summary>Several chunks, with ragged ends; 620 rows of 5 channels leave room for one chunk only.</summary>
    [Theory]
    [InlineData(1, 128, 5, 4, "")]
    [InlineData(2, 129, 33, 4, "restart")]
    [InlineData(1, 1000, 3, 4, "mask restart limits")]
    [InlineData(620, 130, 5, 1, "")]
    [InlineData(1, 65_536, 2, 2, "restart")]
    public void AnyCutOfTimeEqualsTheReference(long batch, long time, long channels, long n, string with) => ScanKernelCase.Check(
        new ScanOnCuda(HostCuda.Runtime()), CPU, time > 1000 ? LongTolerance : Tolerance, batch, time, channels, n, "shared", "shared", with);

    [Fact]
    public void ReadsSlicesOfLargerTensors()
    {
        using var scope = NewDisposeScope();
        manual_seed(22);
        var kernel = new ScanOnCuda(HostCuda.Runtime());
        var (wide, matrices, a, upstream) = (randn(2, 150, 61), randn(2, 150, 9), -randn(20, 3).exp(), randn(2, 150, 41).narrow(2, 8, 20));
        Tensor[] slices = [.. wide.narrow(2, 1, 60).chunk(3, -1), matrices.narrow(-1, 1, 3), matrices.narrow(-1, 5, 3)];
        foreach (var (copy, slice) in Results(slices.Select(slice => slice.contiguous())).Zip(Results(slices)))
        {
            TensorAssert.Identical(copy, slice, "slices and copies");
        }

        Tensor[] Results(IEnumerable<Tensor> inputs) => Differentiation.OfFirstOutput(
            inputs, upstream,
            x => [SelectiveScan.Fused(kernel, x[0], x[1], a, x[3], x[4], null, x[2], null, new ScanSteps(true, null, null), null, null, null, stateGradient: false).Y]);
    }

    /// <summary>One dtype for all is read as it is; otherwise all become float32. States are float32 in both cases.</summary>
    [Theory]
    [InlineData(ScalarType.BFloat16, true, 1e-2)]
    [InlineData(ScalarType.BFloat16, false, 1e-2)]
    [InlineData(ScalarType.Float16, true, 2e-3)]
    public void HalfPrecisionInputsAreComputedInSinglePrecision(ScalarType dtype, bool allRows, double rounding)
    {
        using var scope = NewDisposeScope();
        manual_seed(23);
        var kernel = new ScanOnCuda(HostCuda.Runtime());
        Tensor[] inputs =
        [
            randn(2, 135, 10).to_type(dtype), randn(2, 135, 10).to_type(allRows ? dtype : ScalarType.Float32), randn(2, 135, 4).to_type(dtype),
            randn(2, 135, 4).to_type(dtype), randn(2, 135, 10).to_type(dtype),
        ];
        var (a, skip) = (-randn(10, 4).exp(), randn(10));
        var steps = new ScanSteps(true, null, null);
        Differentiation.HalfEqualsWide(
            inputs, randn(2, 135, 10).to_type(dtype), x => SelectiveScan.Fused(kernel, x[0], x[1], a, x[2], x[3], skip, x[4], null, steps, null, null, null),
            x => SelectiveScan.Reference(x[0], x[1], a, x[2], x[3], skip, x[4], null, steps, null, null, null), rounding, Tolerance);
    }

    [Fact]
    public void ResultsAreTheSameEachTime()
    {
        using var scope = NewDisposeScope();
        manual_seed(10);
        var kernel = new ScanOnCuda(HostCuda.Runtime());
        Tensor[] inputs = [randn(2, 200, 70), randn(2, 200, 70), -randn(70, 3).exp(), randn(2, 200, 3), randn(2, 200, 3)];
        foreach (var (first, second) in Results().Zip(Results()))
        {
            TensorAssert.Identical(first, second, "two runs");
        }

        Tensor[] Results()
        {
            var x = inputs.Select(input => input.detach().clone().requires_grad_(true)).ToArray();
            var (y, state) = SelectiveScan.Fused(kernel, x[0], x[1], x[2], x[3], x[4], null, null, null, new ScanSteps(true, null, null), null, null, null);
            (y.square().sum() + state.sum()).backward();
            return [y, state, .. x.Select(leaf => leaf.grad!)];
        }
    }

    [Fact]
    public void NaNStaysInItsChannelAndItsFuture()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(24);
        var kernel = new ScanOnCuda(HostCuda.Runtime());
        var u = randn(1, 200, 20);
        u[0, 140, 7] = float.NaN;
        var (y, state) = SelectiveScan.Fused(
            kernel, u, randn(1, 200, 20), -randn(20, 3).exp(), randn(1, 200, 3), randn(1, 200, 3), null, null, null, new ScanSteps(true, null, null), null, null, null);
        var expected = zeros([1, 200, 20], dtype: ScalarType.Bool);
        expected[0, TensorIndex.Slice(140), 7] = true;
        TensorAssert.Identical(expected, y.isnan(), "where y is NaN");
        Assert.Equal(3, state.isnan().sum().ToInt64());
    }

    [Fact]
    public void NaNDoesNotGetIntoTheNextSequenceNorItsGradientIntoTheOneBefore()
    {
        using var scope = NewDisposeScope();
        manual_seed(25);
        var kernel = new ScanOnCuda(HostCuda.Runtime());
        var (u, restart, upstream) = (randn(1, 200, 3), zeros([1, 200], dtype: ScalarType.Bool), randn(1, 200, 3));
        u[0, 10, 1] = float.NaN;
        restart[0, 100] = true;
        upstream[0, 190, 2] = float.NaN;
        u.requires_grad_(true);
        var (y, _) = SelectiveScan.Fused(
            kernel, u, randn(1, 200, 3), -randn(3, 2).exp(), randn(1, 200, 2), randn(1, 200, 2), null, null, null, new ScanSteps(true, null, null), null, null, restart);
        y.backward([upstream]);
        var (forward, backward) = (zeros([1, 200, 3], dtype: ScalarType.Bool), zeros([1, 200, 3], dtype: ScalarType.Bool));
        forward[0, TensorIndex.Slice(10, 100), 1] = true;
        backward[0, TensorIndex.Slice(100, 191), 2] = true;
        TensorAssert.Identical(forward, y.isnan(), "where y is NaN");
        TensorAssert.Identical(backward, u.grad!.isnan(), "where the gradient of u is NaN");
    }
}
