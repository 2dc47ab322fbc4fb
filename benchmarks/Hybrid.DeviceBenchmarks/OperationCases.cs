using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.DeviceBenchmarks;

/// <summary>An operation to measure.</summary>
/// <param name="What">Its name and sizes.</param>
/// <param name="Inputs">What gradients go to.</param>
/// <param name="Run">The result.</param>
internal sealed record Operation(string What, Tensor[] Inputs, Func<Tensor[], Tensor> Run);

/// <summary>Single operations as the library chooses them for the device, each beside the same from tensor operations, at the sizes of published models.</summary>
internal static class OperationCases
{
    private const double LargestStep = 0.1;

    /// <summary>The operations by the names of their cases.</summary>
    public static IReadOnlyDictionary<string, Func<Settings, Operation>> All { get; } = new Dictionary<string, Func<Settings, Operation>>
    {
        ["convolution"] = Convolution,
        ["norm"] = Norm,
        ["recurrence"] = Recurrence,
        ["rg_lru"] = RealGatedUnit,
        ["average"] = Average,
        ["wkv"] = WeightedMean,
        ["gated_delta"] = Delta,
        ["duality"] = Duality,
    };

    /// <summary>Forward, and forward and backward. The kernels come first, so that the memory of their rows is their own.</summary>
    public static IEnumerable<Row> Measure(Settings settings, Func<Settings, Operation> make)
    {
        var memory = new DeviceMemory(settings.Device);
        using var scope = NewDisposeScope();
        var operation = make(settings);
        Tensor upstream;
        using (no_grad())
        {
            upstream = randn_like(operation.Run(operation.Inputs));
        }

        var kernels = new Dictionary<bool, double>();
        foreach (var (composed, backward) in new[] { (false, false), (false, true), (true, false), (true, true) })
        {
            KernelDispatcher.ReferenceOnly = composed;
            var milliseconds = Clock.Median(settings, () => Run(operation, upstream, backward));
            KernelDispatcher.ReferenceOnly = false;
            var what = operation.What.Replace(",", $", forward{(backward ? " and backward" : "")},", StringComparison.Ordinal);
            kernels.TryAdd(backward, milliseconds);
            yield return composed
                ? new Row($"{what}, tensor operations", settings, milliseconds, $"{milliseconds / kernels[backward]:0.00} times the kernels", memory.PeakMib)
                : new Row(what, settings, milliseconds, "", memory.PeakMib);
        }
    }

    private static void Run(Operation operation, Tensor upstream, bool backward)
    {
        using var mode = set_grad_enabled(backward);
        var y = operation.Run([.. operation.Inputs.Select(input => input.requires_grad_(backward))]);
        if (backward)
        {
            autograd.grad([y], operation.Inputs, [upstream]);
        }
    }

    /// <summary>The convolution of mamba-130m.</summary>
    private static Operation Convolution(Settings settings)
    {
        var (batch, time, inner) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(1536, 96));
        const long taps = 4;
        return new(
            $"convolution with SiLU, B {batch} T {time} E {inner} W {taps}",
            [settings.Random(batch, time, inner), settings.Random(inner, taps), settings.Random(inner)],
            x => CausalConv1d.Apply(x[0], x[1], x[2], Activation.Silu).Y);
    }

    /// <summary>The norm of mamba-130m.</summary>
    private static Operation Norm(Settings settings)
    {
        var (batch, time, width) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(768, 64));
        var norm = new RmsNorm(width);
        norm.to(settings.Device).to(settings.Precision);
        return new($"RMS norm, B {batch} T {time} D {width}", [settings.Random(batch, time, width), norm.get_parameter("weight")!], x => norm.call(x[0]));
    }

    private static Operation Recurrence(Settings settings)
    {
        var (batch, time, width) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(1536, 96));
        return new(
            $"linear recurrence, B {batch} T {time} E {width}",
            [settings.Random(batch, time, width), settings.Random(batch, time, width).exp().neg()],
            x => LinearRecurrence.Apply(x[0], x[1], stateGradient: false).Y);
    }

    /// <summary>The unit of recurrentgemma-2b; biases and decays in float32, as in mixed precision.</summary>
    private static Operation RealGatedUnit(Settings settings)
    {
        var (batch, time, heads, width) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(10, 2), settings.Size(256, 32));
        var scale = 1 / Math.Sqrt(width);
        return new(
            $"RG-LRU with the products of its gates, B {batch} T {time} E {heads * width} H {heads}",
            [
                settings.Random(batch, time, heads * width), settings.Random(heads, width, width) * scale, settings.Floats(heads, width),
                settings.Random(heads, width, width) * scale, settings.Floats(heads, width), settings.Floats(heads * width),
            ],
            x => RgLru.Apply(x[0], x[1], x[2], x[3], x[4], x[5], stateGradient: false).Y);
    }

    private static Operation Average(Settings settings)
    {
        var (batch, time, width) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(1536, 96));
        return new(
            $"gated average, B {batch} T {time} E {width}",
            [settings.Random(batch, time, 2 * width), settings.Floats(width), settings.Random(batch, time, width)],
            x => GatedAverage.Apply(x[0], x[1], x[2], stateGradient: false).Y);
    }

    /// <summary>The mean of rwkv-4-169m.</summary>
    private static Operation WeightedMean(Settings settings)
    {
        var (batch, time, width) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(768, 64));
        return new(
            $"WKV of RWKV-4 with receptance, B {batch} T {time} E {width}",
            [
                settings.Floats(width), settings.Floats(width), settings.Random(batch, time, width), settings.Random(batch, time, width),
                settings.Random(batch, time, width),
            ],
            x => Wkv.Apply(WkvForm.Rwkv4, x[0], x[1], x[2], x[3], receptance: x[4], stateGradient: false).Y);
    }

    /// <summary>Half the heads of Qwen3-Next.</summary>
    private static Operation Delta(Settings settings)
    {
        var (batch, time, heads, width) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(16, 2), settings.Size(128, 32));
        return new(
            $"gated delta rule, B {batch} T {time} H {heads} K {width} V {width}",
            [
                settings.Random(batch, time, heads, width), settings.Random(batch, time, heads, width), settings.Random(batch, time, heads, width),
                settings.Random(batch, time, heads).sigmoid(), settings.Random(batch, time, heads).exp().neg() * LargestStep,
            ],
            x => GatedDelta.Apply(x[0], x[1], x[2], x[3], x[4], normalise: true, stateGradient: false).O);
    }

    /// <summary>The recurrence of mamba2-130m.</summary>
    private static Operation Duality(Settings settings)
    {
        var (batch, time, heads, width) = (settings.Size(2, 1), settings.Size(2048, 128), settings.Size(24, 2), settings.Size(64, 32));
        var stateSize = settings.Size(128, 16);
        return new(
            $"state-space duality, B {batch} T {time} H {heads} P {width} N {stateSize}",
            [
                settings.Random(batch, time, heads, width), settings.Random(batch, time, heads).sigmoid() * LargestStep, settings.Floats(heads).exp().neg(),
                settings.Random(batch, time, 1, stateSize), settings.Random(batch, time, 1, stateSize),
            ],
            x => StateSpaceDuality.Apply(x[0], x[1], x[2], x[3], x[4], stateGradient: false).Y);
    }
}
