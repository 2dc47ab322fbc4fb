using System.Globalization;
using Hybrid.Kernels;
using Hybrid.Tests.Infrastructure;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>A scan with everything in it, by which each fused kernel is compared with the reference: outputs, final state, all gradients.</summary>
internal static class ScanKernelCase
{
    /// <summary>Batch, time, channels, states, the forms of B and C, and what else: mask, restart, limits.</summary>
    public static TheoryData<long, long, long, long, string, string, string> All => new()
    {
        { 1, 1, 1, 1, "shared", "shared", "" },
        { 2, 2, 3, 2, "shared", "shared", "" },
        { 3, 32, 16, 16, "shared", "shared", "" },
        { 1, 100, 129, 7, "shared", "shared", "" },
        { 2, 37, 24, 5, "shared", "shared", "mask" },
        { 1, 70, 21, 4, "shared", "shared", "restart" },
        { 2, 40, 18, 3, "groups 3", "groups 2", "limits" },
        { 1, 33, 300, 2, "groups 2", "shared", "mask restart limits" },
        { 2, 65, 20, 6, "constant", "shared", "" },
        { 1, 34, 17, 4, "shared", "constant", "restart" },
        { 2, 31, 35, 3, "constant", "constant", "mask" },
        { 1, 1, 7, 2, "groups 7", "constant", "restart" },
    };

    /// <summary>Compares the kernels of a device with the reference.</summary>
    public static void Check(
        IScanDevice kernel, Device device, double tolerance, long batch, long time, long channels, long n, string formOfB, string formOfC, string with)
    {
        using var scope = NewDisposeScope();
        manual_seed(21);
        Tensor[] drawn =
        [
            randn(batch, time, channels), randn(batch, time, channels), -randn(channels, n).exp(), Matrix(formOfB), Matrix(formOfC),
            randn(channels), randn(batch, time, channels), randn(channels), randn(batch, channels, n),
        ];
        Tensor[] inputs = [.. drawn.Select(input => input.to(device))];
        var mask = with.Contains("mask", StringComparison.Ordinal) ? rand(batch, time).gt(0.3).to(device) : null;
        var restart = with.Contains("restart", StringComparison.Ordinal) ? rand(batch, time).gt(0.8).to(device) : null;
        (double? min, double? max) = with.Contains("limits", StringComparison.Ordinal) ? (0.3, 1.5) : (null as double?, null as double?);
        var steps = new ScanSteps(true, min, max);

        var reference = Differentiation.Results(inputs, x => SelectiveScan.Reference(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], mask, restart));
        var fast = Differentiation.Results(inputs, x => SelectiveScan.Fused(kernel, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], steps, x[8], mask, restart));
        TensorAssert.AllClose(
            reference, fast, tolerance, "scan", "y", "state", "du", "ddelta", "dA", "dB", "dC", "dD", "dz", "dbias", "dinitial");

        Tensor Matrix(string form) => form switch
        {
            "shared" => randn(batch, time, n),
            "constant" => randn(channels, n),
            _ => randn(batch, time, long.Parse(form[7..], CultureInfo.InvariantCulture), n),
        };
    }
}
