using System.Globalization;
using Hybrid.Kernels;
using Hybrid.Mixers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.DeviceBenchmarks;

/// <summary>One layer and its scan at the width of mamba-130m, each beside its baseline.</summary>
internal static class KernelCases
{
    private const long Width = 768;
    private const long Inner = 2 * Width;
    private const long StateSize = 16;
    private const long Rank = Width / 16;

    /// <summary>The scan as the library chooses it against the scan made of tensor operations.</summary>
    public static IEnumerable<Row> Scan(Settings settings)
    {
        var memory = new DeviceMemory(settings.Device);
        var (batch, time, inner) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(Inner, 96));
        using var scope = NewDisposeScope();
        var (u, delta, gate) = (settings.Random(batch, time, inner), settings.Random(batch, time, inner), settings.Random(batch, time, inner));
        var (input, output) = (settings.Random(batch, time, StateSize), settings.Random(batch, time, StateSize));
        var decay = randn(inner, StateSize, device: settings.Device).exp().neg();
        var (skip, bias) = (randn(inner, device: settings.Device), randn(inner, device: settings.Device));
        var upstream = settings.Random(batch, time, inner);
        Tensor[] leaves = [u, delta, gate, input, output, decay, skip, bias];
        foreach (var backward in new[] { false, true })
        {
            foreach (var leaf in leaves)
            {
                leaf.requires_grad_(backward);
            }

            var what = $"scan, forward{(backward ? " and backward" : "")}, B {batch}, T {time}, E {inner}, N {StateSize}";
            var fast = Clock.Median(settings, () => Run(ScanType.Auto, backward));
            yield return new Row(what, settings, fast, "", memory.PeakMib);
            var plain = Clock.Median(settings, () => Run(ScanType.Associative, backward));
            yield return new Row(what + ", tensor operations", settings, plain, Ratio(plain, fast, "times the line above"), memory.PeakMib);
        }

        void Run(ScanType type, bool backward)
        {
            using var mode = set_grad_enabled(backward);
            var (y, _) = SelectiveScan.Apply(
                u, delta, decay, input, output, skip, gate, bias, deltaSoftplus: true, stateGradient: false, scanType: type);
            if (backward)
            {
                y.backward([upstream]);
            }
        }
    }

    /// <summary>A Mamba layer against its four matrix products alone, which no kernel of the library touches.</summary>
    public static IEnumerable<Row> Block(Settings settings)
    {
        var memory = new DeviceMemory(settings.Device);
        var (batch, time) = (settings.Size(2, 1), settings.Size(2048, 128));
        using var scope = NewDisposeScope();
        using var mixer = new MambaMixer(Width, new MambaOptions { DState = StateSize });
        mixer.to(settings.Device);
        if (settings.Precision != ScalarType.Float32)
        {
            mixer.ToMixedPrecision(settings.Precision);
        }

        (long Out, long In)[] shapes = [(2 * Inner, Width), (Rank + (2 * StateSize), Inner), (Inner, Rank), (Width, Inner)];
        var weights = shapes.Select(shape => settings.Random(shape.Out, shape.In).requires_grad_(true)).ToArray();
        var inputs = shapes.Select(shape => settings.Random(batch, time, shape.In).requires_grad_(true)).ToArray();
        var upstream = shapes.Select(shape => settings.Random(batch, time, shape.Out)).ToArray();
        foreach (var backward in new[] { false, true })
        {
            var what = $"Mamba layer, forward{(backward ? " and backward" : "")}, B {batch}, T {time}, D {Width}";
            var products = Clock.Median(settings, () => Products(backward));
            yield return new Row(what + ", its products alone", settings, products, "", memory.PeakMib);
            var layer = Clock.Median(settings, () => Layer(backward));
            yield return new Row(what, settings, layer, Ratio(layer, products, "times its products"), memory.PeakMib);
        }

        void Products(bool backward)
        {
            using var mode = set_grad_enabled(backward);
            for (var i = 0; i < weights.Length; i++)
            {
                var y = nn.functional.linear(inputs[i], weights[i]);
                if (backward)
                {
                    y.backward([upstream[i]]);
                }
            }
        }

        void Layer(bool backward)
        {
            using var mode = set_grad_enabled(backward);
            var y = mixer.call(inputs[0]);
            if (backward)
            {
                y.backward([upstream[^1]]);
            }
        }
    }

    private static string Ratio(double time, double baseline, string what) => string.Create(CultureInfo.InvariantCulture, $"{time / baseline:0.00} {what}");
}
