using Hybrid.Mixers;
using Hybrid.Tests.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

/// <summary>The Mamba mixer of the paper, token by token in plain double arithmetic, from the parameters of a module.</summary>
internal sealed class NaiveMamba
{
    private readonly Dictionary<string, double[]> weights;
    private readonly int width;
    private readonly int inner;
    private readonly int taps;
    private readonly int states;
    private readonly int rank;
    private readonly double dtMin;
    private readonly double dtMax;

    public NaiveMamba(MambaMixer mixer, MambaOptions options)
    {
        weights = mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));
        width = (int)mixer.Width;
        inner = (int)mixer.InnerWidth;
        taps = (int)options.DConv;
        states = (int)options.DState;
        rank = (int)options.ResolveDtRank(mixer.Width);
        dtMin = options.DtLimitMin ?? 0;
        dtMax = options.DtLimitMax ?? double.PositiveInfinity;
    }

    /// <summary>Input [T, D] to output [T, D], both flat.</summary>
    public double[] Run(double[] input)
    {
        var time = input.Length / width;
        var output = new double[input.Length];
        var history = new double[time][];
        var h = new double[inner, states];
        for (var t = 0; t < time; t++)
        {
            var projected = Linear("in_proj", input[(t * width)..((t + 1) * width)]);
            history[t] = projected[..inner];
            var z = projected[inner..];
            var x = Convolve(history, t);
            var parts = Linear("x_proj", x);
            var dt = Linear("dt_proj", parts[..rank]);
            var y = new double[inner];
            for (var e = 0; e < inner; e++)
            {
                var delta = Math.Clamp(Math.Log(1 + Math.Exp(dt[e])), dtMin, dtMax);
                for (var n = 0; n < states; n++)
                {
                    var a = -Math.Exp(weights["A_log"][(e * states) + n]);
                    h[e, n] = (Math.Exp(delta * a) * h[e, n]) + (delta * x[e] * parts[rank + n]);
                    y[e] += parts[rank + states + n] * h[e, n];
                }

                y[e] = (y[e] + (weights["D"][e] * x[e])) * Values.Silu(z[e]);
            }

            Linear("out_proj", y).CopyTo(output, t * width);
        }

        return output;
    }

    private double[] Convolve(double[][] history, int t)
    {
        var x = new double[inner];
        for (var e = 0; e < inner; e++)
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
