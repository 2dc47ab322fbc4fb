using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>The gated delta rule of each fused kernel against the reference in float64: outputs, final state, all gradients.</summary>
internal static class DeltaKernelCase
{
    private const double Scale = 0.7;

    /// <summary>
    /// Batch, time, heads, K, V and which optional inputs, one without the others; sizes that leave ragged ends of chunks, tiles, warps and registers of
    /// every width.
    /// </summary>
    public static TheoryData<long, long, long, long, long, string> All => new()
    {
        { 1, 1, 1, 2, 1, "" },
        { 2, 2, 2, 3, 5, "g normalise initial" },
        { 1, 31, 3, 5, 3, "g mask" },
        { 2, 32, 3, 16, 8, "normalise restart" },
        { 1, 33, 2, 9, 16, "g" },
        { 2, 63, 2, 15, 31, "initial" },
        { 1, 64, 2, 32, 17, "g normalise" },
        { 2, 97, 2, 6, 33, "g normalise mask restart initial" },
        { 1, 130, 1, 70, 65, "g normalise" },
    };

    /// <summary>Compares the kernel of a device with the reference.</summary>
    public static void Check(
        IDeltaDevice kernel, Device device, double tolerance, long batch, long time, long heads, long keyWidth, long valueWidth, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(9);
        var normalise = Has("normalise");
        var inputs = Inputs(batch, time, heads, keyWidth, valueWidth, with);
        var mask = Has("mask") ? rand(batch, time).gt(0.3).to(device) : null;
        var restart = Has("restart") ? rand(batch, time).gt(0.9).to(device) : null;
        var (upstreamO, upstreamState) = (randn(batch, time, heads, valueWidth).to(device), randn(batch, heads, keyWidth, valueWidth).to(device));

        var reference = Results(
            ScalarType.Float64, x => GatedDelta.Reference(x[0]!, x[1]!, x[2]!, x[3]!, x[4], Scale, normalise, x[5], mask, restart));
        var fast = Results(
            ScalarType.Float32, x => GatedDelta.Fused(kernel, x[0]!, x[1]!, x[2]!, x[3]!, x[4], Scale, normalise, x[5], mask, restart));
        string[] names = ["o", "state", .. new[] { "q", "k", "v", "beta", "g", "initial state" }.Where((_, i) => inputs[i] is not null)];
        foreach (var (i, expected) in reference.Index())
        {
            TensorAssert.Close(expected, fast[i], tolerance, i < 2 ? names[i] : $"gradient of {names[i]}");
        }

        bool Has(string what) => with.Contains(what, StringComparison.Ordinal);

        List<Tensor> Results(ScalarType dtype, Func<Tensor?[], (Tensor O, Tensor State)> run)
        {
            var x = inputs.Select(input => input?.to(device).to_type(dtype).detach().clone().requires_grad_(true)).ToArray();
            var (o, state) = run(x);
            ((o * upstreamO).sum() + (state * upstreamState).sum()).backward();
            return [o, state, .. x.Where(leaf => leaf is not null).Select(leaf => leaf!.grad!)];
        }
    }

    /// <summary>q, k, v, beta, g and initialState, those that are optional where they are named. Keys have length 1 at most where they stay as they are.</summary>
    public static Tensor?[] Inputs(long batch, long time, long heads, long keyWidth, long valueWidth, string with)
    {
        bool Has(string what) => with.Contains(what, StringComparison.Ordinal);
        var keys = randn(batch, time, heads, keyWidth);
        return
        [
            randn(batch, time, heads, keyWidth), Has("normalise") ? keys : keys / (keys.square().sum(-1, keepdim: true) + 1e-6).sqrt(),
            randn(batch, time, heads, valueWidth), rand(batch, time, heads), Has("g") ? -rand(batch, time, heads) * 0.3 : null,
            Has("initial") ? randn(batch, heads, keyWidth, valueWidth) : null,
        ];
    }
}
