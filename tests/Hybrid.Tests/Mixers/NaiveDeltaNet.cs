using Hybrid.Mixers;
using Hybrid.Tests.Layers;

namespace Hybrid.Tests.Mixers;

/// <summary>DeltaNet token by token in plain double arithmetic, from the parameters of a module.</summary>
internal sealed class NaiveDeltaNet
{
    private readonly Dictionary<string, double[]> weights;
    private readonly DeltaNetOptions options;
    private readonly int width;
    private readonly int heads;
    private readonly int keys;

    public NaiveDeltaNet(DeltaNetMixer mixer, DeltaNetOptions options)
    {
        weights = mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));
        this.options = options;
        width = (int)mixer.Width;
        heads = (int)options.NumHeads;
        keys = weights["o_norm.weight"].Length;
    }

    /// <summary>Input [T, D] to output [T, D], both flat.</summary>
    public double[] Run(double[] input)
    {
        var rows = input.Chunk(width).ToArray();
        var (q, k, v) = (Features("q", rows), Features("k", rows), Features("v", rows));
        var state = new double[heads, keys, keys];
        return [.. rows.SelectMany((row, t) => Multiply("o_proj", Step(state, q[t], k[t], v[t], Multiply("b_proj", row))))];
    }

    private double[] Step(double[,,] state, double[] q, double[] k, double[] v, double[] betaLogits)
    {
        var output = new double[heads * keys];
        for (var h = 0; h < heads; h++)
        {
            var at = (h * keys)..((h + 1) * keys);
            var (query, key, value) = (Unit(q[at]), Unit(k[at]), v[at]);
            var beta = Values.Sigmoid(betaLogits[h]) * (options.AllowNegativeEigenvalues ? 2 : 1);
            var o = new double[keys];
            for (var j = 0; j < keys; j++)
            {
                var held = 0.0;
                for (var i = 0; i < keys; i++)
                {
                    held += state[h, i, j] * key[i];
                }

                for (var i = 0; i < keys; i++)
                {
                    state[h, i, j] += key[i] * beta * (value[j] - held);
                    o[j] += state[h, i, j] * query[i] / Math.Sqrt(keys);
                }
            }

            var scale = Math.Sqrt((o.Sum(x => x * x) / keys) + options.NormEps);
            for (var j = 0; j < keys; j++)
            {
                output[(h * keys) + j] = o[j] / scale * weights["o_norm.weight"][j];
            }
        }

        return output;
    }

    /// <summary>Projection, convolution over the tokens so far, SiLU.</summary>
    private double[][] Features(string name, double[][] rows)
    {
        var projected = rows.Select(row => Multiply($"{name}_proj", row)).ToArray();
        if (!options.UseShortConv)
        {
            return [.. projected.Select(row => row.Select(Values.Silu).ToArray())];
        }

        var (taps, weight) = ((int)options.DConv, weights[$"{name}_conv1d.weight"]);
        var bias = weights.GetValueOrDefault($"{name}_conv1d.bias");
        return [.. projected.Select((row, t) => row.Select((_, channel) =>
        {
            var sum = bias?[channel] ?? 0;
            for (var tap = 0; tap < taps; tap++)
            {
                var past = t - (taps - 1) + tap;
                sum += past < 0 ? 0 : weight[(channel * taps) + tap] * projected[past][channel];
            }

            return Values.Silu(sum);
        }).ToArray())];
    }

    private static double[] Unit(double[] x)
    {
        var length = Math.Sqrt(x.Sum(value => value * value) + 1e-6);
        return [.. x.Select(value => value / length)];
    }

    private double[] Multiply(string name, double[] x)
    {
        var weight = weights[name + ".weight"];
        return [.. Enumerable.Range(0, weight.Length / x.Length).Select(row => x.Select((value, i) => weight[(row * x.Length) + i] * value).Sum())];
    }
}
