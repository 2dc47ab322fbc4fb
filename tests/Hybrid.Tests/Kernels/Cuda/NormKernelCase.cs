using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels.Cuda;

/// <summary>Forms of the norm, compared with tensor operations in float64: outputs and all gradients.</summary>
internal static class NormKernelCase
{
    /// <summary>
    /// Rows, width, groups, and a gate before or after the norm, "one" for a factor of 1 plus the weight, or "bare" for no weight. Widths for a
    /// warp and for a block.
    /// </summary>
    public static TheoryData<long, long, long, string> All => new()
    {
        { 1, 1, 1, "" },
        { 3, 31, 1, "" },
        { 5, 512, 1, "before" },
        { 2, 513, 1, "after" },
        { 200, 1000, 1, "" },
        { 7, 96, 3, "before" },
        { 130, 40, 4, "after" },
        { 3, 2000, 2, "before" },
        { 3, 33, 1, "one" },
        { 70, 700, 1, "one" },
        { 5, 130, 2, "one after" },
        { 1, 2, 1, "bare" },
        { 90, 64, 1, "bare" },
        { 4, 1001, 1, "bare" },

        // Rows in packs of four: the widest that threads keep, and one that they do not; parts of several tokens.
        { 2, 4096, 1, "after" },
        { 3, 4100, 1, "before" },
        { 1500, 12, 2, "after" },
        { 600, 516, 1, "one" },
    };

    /// <summary>Compares the kernels of a device with tensor operations.</summary>
    public static void Check(NormOnCuda norm, Device device, double tolerance, long rows, long width, long groups, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        var gate = Has("before") ? GateOrder.BeforeNorm : Has("after") ? GateOrder.AfterNorm : GateOrder.None;
        var form = new NormForm(1e-3, gate, groups, WeightShift: Has("one") ? 1 : 0);
        Tensor[] inputs = [randn(2, rows, width), randn(width), randn(2, rows, width)];
        var upstream = randn(2, rows, width).to(device);
        var expected = Results(ScalarType.Float64, x => CudaNorm.Composed(x[0], x.ElementAtOrDefault(2), x.ElementAtOrDefault(1), form));
        var actual = Results(ScalarType.Float32, x => CudaNorm.Apply(norm, x[0], x.ElementAtOrDefault(2), x.ElementAtOrDefault(1), form));
        string[] names = ["y", "gradient of x", "gradient of the weight", "gradient of the gate"];
        foreach (var (i, want) in expected.Index())
        {
            TensorAssert.Close(want, actual[i], tolerance, names[i]);
        }

        bool Has(string part) => with.Contains(part, StringComparison.Ordinal);

        List<Tensor> Results(ScalarType dtype, Func<Tensor[], Tensor> run)
        {
            var x = inputs.Take(gate != GateOrder.None ? 3 : Has("bare") ? 1 : 2).Select(input => input.to(device).to_type(dtype).clone().requires_grad_(true)).ToArray();
            var y = run(x);
            y.backward([upstream.to_type(dtype)]);
            return [y.detach(), .. x.Select(leaf => leaf.grad!)];
        }
    }
}
