using Hybrid.Mixers;
using Hybrid.Tests.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

/// <summary>The Mamba-2 mixer of the paper, token by token in plain double arithmetic, from the parameters of a module.</summary>
internal sealed class NaiveMamba2
{
    private readonly Dictionary<string, double[]> weights;
    private readonly Mamba2Options options;
    private readonly int width;
    private readonly int inner;
    private readonly int heads;
    private readonly int states;
    private readonly int groups;

    public NaiveMamba2(Mamba2Mixer mixer, Mamba2Options options)
    {
        weights = mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));
        this.options = options;
        width = (int)mixer.Width;
        inner = width * (int)options.ExpandFactor;
        heads = inner / (int)options.HeadDim;
        states = (int)options.DState;
        groups = (int)options.NGroups;
    }

    /// <summary>Input [T, D] to output [T, D], both flat.</summary>
    public double[] Run(double[] input)
    {
        var time = input.Length / width;
        var output = new double[input.Length];
        var history = new double[time][];
        var s = new double[inner, states];
        var channels = inner + (2 * groups * states);
        for (var t = 0; t < time; t++)
        {
            var projected = Linear("in_proj", input[(t * width)..((t + 1) * width)]);
            var z = projected[..inner];
            history[t] = projected[inner..(inner + channels)];
            var dt = projected[(inner + channels)..];
            var x = Convolve(history, t, channels);
            var y = new double[inner];
            for (var e = 0; e < inner; e++)
            {
                var head = e / (inner / heads);
                var group = head / (heads / groups);
                var step = Math.Clamp(
                    Math.Log(1 + Math.Exp(dt[head] + weights["dt_bias"][head])),
                    options.DtLimitMin ?? 0,
                    options.DtLimitMax ?? double.PositiveInfinity);
                var decay = Math.Exp(-step * Math.Exp(weights["A_log"][head]));
                for (var n = 0; n < states; n++)
                {
                    s[e, n] = (decay * s[e, n]) + (step * x[e] * x[inner + (group * states) + n]);
                    y[e] += x[inner + ((groups + group) * states) + n] * s[e, n];
                }

                y[e] += weights["D"][head] * x[e];
            }

            Linear("out_proj", Norm(y, z)).CopyTo(output, t * width);
        }

        return output;
    }

    private double[] Norm(double[] y, double[] z)
    {
        var input = options.NormBeforeGate ? y : [.. y.Select((value, e) => value * Values.Silu(z[e]))];
        var result = new double[inner];
        var size = inner / (int)options.NormGroups;
        for (var e = 0; e < inner; e++)
        {
            var meanSquare = input[(e / size * size)..((e / size * size) + size)].Average(value => value * value);
            result[e] = input[e] / Math.Sqrt(meanSquare + options.NormEps) * weights["norm.weight"][e];
            result[e] *= options.NormBeforeGate ? Values.Silu(z[e]) : 1;
        }

        return result;
    }

    private double[] Convolve(double[][] history, int t, int channels)
    {
        var taps = (int)options.DConv;
        var x = new double[channels];
        for (var e = 0; e < channels; e++)
        {
            var sum = weights.TryGetValue("conv1d.bias", out var bias) ? bias[e] : 0;
            for (var k = 0; k < taps; k++)
            {
                var past = t - (taps - 1) + k;
                sum += past < 0 ? 0 : weights["conv1d.weight"][(e * taps) + k] * history[past][e];
            }

            x[e] = Values.Silu(sum);
        }

        return x;
    }

    private double[] Linear(string name, double[] x)
    {
        var weight = weights[name + ".weight"];
        var bias = weights.GetValueOrDefault(name + ".bias");
        return [.. Enumerable.Range(0, weight.Length / x.Length)
            .Select(row => (bias?[row] ?? 0) + x.Select((value, i) => weight[(row * x.Length) + i] * value).Sum())];
    }
}
