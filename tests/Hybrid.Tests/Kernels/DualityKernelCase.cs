using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>State-space duality in each fused kernel against the reference in float64: outputs, final state, all gradients.</summary>
internal static class DualityKernelCase
{
    /// <summary>Its place among the results: after y, the state and the gradients of x and dt.</summary>
    private const int GradientOfA = 4;

    /// <summary>A kernel of the inputs in their order, step sizes, mask and restarts.</summary>
    public delegate (Tensor Y, Tensor State) Kernel(Tensor?[] inputs, ScanSteps steps, Tensor? mask, Tensor? restart);

    /// <summary>
    /// Batch, time, heads, groups, P, N and which optional inputs, one without the others; sizes that leave ragged ends of chunks, tiles, warps and
    /// registers of every width.
    /// </summary>
    public static TheoryData<long, long, long, long, long, long, string> All => new()
    {
        { 1, 1, 1, 1, 1, 1, "" },
        { 2, 2, 2, 1, 3, 5, "D z bias initial" },
        { 1, 31, 6, 2, 7, 4, "mask" },
        { 2, 32, 3, 3, 8, 16, "restart" },
        { 1, 33, 4, 2, 9, 3, "limits bias" },
        { 2, 63, 2, 1, 15, 31, "D of channels" },
        { 1, 64, 2, 2, 16, 32, "z" },
        { 1, 65, 4, 1, 17, 33, "initial" },
        { 2, 97, 4, 2, 33, 6, "D of channels z mask restart limits bias initial" },
        { 1, 100, 2, 1, 70, 65, "D z bias" },
    };

    /// <summary>Compares a kernel with the reference.</summary>
    /// <param name="stepwise">
    /// True to compare the gradient of A, a sum over time of both signs, relative to the sum of magnitudes: for kernels that hand gradients of decays
    /// from step to step, whose rounding errors do not shrink where the sum happens to vanish.
    /// </param>
    public static void Check(
        Kernel kernel, Device device, double tolerance, long batch, long time, long heads, long groups, long headWidth, long n, string with,
        bool stepwise = false)
    {
        using var scope = NewDisposeScope();
        manual_seed(9);
        var inputs = Inputs(batch, time, heads, groups, headWidth, n, with);
        var mask = Has("mask") ? rand(batch, time).gt(0.3).to(device) : null;
        var restart = Has("restart") ? rand(batch, time).gt(0.8).to(device) : null;
        (double? min, double? max) = Has("limits") ? (0.3, 1.5) : (null as double?, null as double?);
        var (upstreamY, upstreamState) = (randn(batch, time, heads, headWidth).to(device), randn(batch, heads, headWidth, n).to(device));

        var reference = Results(ScalarType.Float64, Reference);
        var fast = Results(ScalarType.Float32, x => kernel(x, new ScanSteps(true, min, max), mask, restart));
        if (stepwise)
        {
            inputs[2] = inputs[2]!.expand(batch, time, heads);
            var magnitude = Results(ScalarType.Float64, Reference)[GradientOfA].abs().sum([0L, 1L]);
            reference[GradientOfA] = cat([reference[GradientOfA], magnitude]);
            fast[GradientOfA] = cat([fast[GradientOfA], magnitude]);
        }

        string[] names =
        [
            "y", "state", .. new[] { "x", "dt", "A", "B", "C", "D", "z", "dtBias", "initial state" }.Where((_, i) => inputs[i] is not null),
        ];
        foreach (var (i, expected) in reference.Index())
        {
            TensorAssert.Close(expected, fast[i], tolerance, i < 2 ? names[i] : $"gradient of {names[i]}");
        }

        bool Has(string what) => with.Contains(what, StringComparison.Ordinal);

        (Tensor Y, Tensor State) Reference(Tensor?[] x) => StateSpaceDuality.Reference(
            x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5], x[6], x[7], true, min, max, x[8], mask, restart, StateSpaceDuality.DefaultChunkSize);

        List<Tensor> Results(ScalarType dtype, Func<Tensor?[], (Tensor Y, Tensor State)> run)
        {
            var x = inputs.Select(input => input?.to(device).to_type(dtype).detach().clone().requires_grad_(true)).ToArray();
            var (y, state) = run(x);
            ((y * upstreamY).sum() + (state * upstreamState).sum()).backward();
            return [y, state, .. x.Where(leaf => leaf is not null).Select(leaf => leaf!.grad!)];
        }
    }

    /// <summary>x, dt, A, B, C, D, z, dtBias and initialState, those that are optional where they are named.</summary>
    public static Tensor?[] Inputs(long batch, long time, long heads, long groups, long headWidth, long n, string with)
    {
        bool Has(string what) => with.Contains(what, StringComparison.Ordinal);
        return
        [
            randn(batch, time, heads, headWidth), randn(batch, time, heads), -randn(heads).exp(), randn(batch, time, groups, n),
            randn(batch, time, groups, n), Has("D of channels") ? randn(heads, headWidth) : Has("D") ? randn(heads) : null,
            Has("z") ? randn(batch, time, heads, headWidth) : null, Has("bias") ? randn(heads) : null,
            Has("initial") ? randn(batch, heads, headWidth, n) : null,
        ];
    }
}
