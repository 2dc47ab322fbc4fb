using Hybrid.Routing;
using Hybrid.Tests.Layers;

namespace Hybrid.Tests.Routing;

/// <summary>
/// The TransPoint mixer of one sequence, token by token in plain double arithmetic, from the parameters of a module. The state space runs
/// over all tokens from the first on, so nothing is converted.
/// </summary>
internal sealed class NaiveTransPoint(TransPointMixer mixer, TransPointOptions options)
{
    private readonly Dictionary<string, double[]> weights =
        mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));

    private readonly int width = (int)mixer.Width;
    private readonly int inner = (int)(mixer.Width * options.ExpandFactor);
    private readonly int heads = (int)(mixer.Width * options.ExpandFactor / options.HeadDim);
    private readonly int states = (int)options.DState;

    private int Groups => (int)(options.NGroups ?? heads);

    private int HeadWidth => (int)options.HeadDim;

    /// <summary>Input [T, D] to output [T, D], both flat, and the recurrent state [H, K, N] after the last token.</summary>
    public (double[] Output, double[] State) Run(double[] input)
    {
        var time = input.Length / width;
        var output = new double[input.Length];
        var history = new double[time][];
        var (values, keys) = (new double[time][], new double[time][]);
        var state = new double[inner * states];
        var channels = inner + (2 * Groups * states);
        for (var t = 0; t < time; t++)
        {
            var projected = Linear("in_proj", input[(t * width)..((t + 1) * width)]);
            history[t] = projected[inner..(inner + channels)];
            var convolved = Convolve(history, t, channels);
            values[t] = convolved[..inner];
            keys[t] = convolved[inner..(inner + (Groups * states))];
            var query = convolved[(inner + (Groups * states))..];
            var recurrent = Step(state, values[t], keys[t], query, projected[(inner + channels)..]);
            var mixed = t < mixer.TransPoint ? Attend(query, keys, values, t) : recurrent;
            Linear("out_proj", Norm(mixed, projected[..inner])).CopyTo(output, t * width);
        }

        return (output, state);
    }

    private double[] Step(double[] state, double[] value, double[] key, double[] query, double[] rawSteps)
    {
        var y = new double[inner];
        for (var e = 0; e < inner; e++)
        {
            var head = e / HeadWidth;
            var first = head / (heads / Groups) * states;
            var step = Math.Log(1 + Math.Exp(rawSteps[head] + weights["dt_bias"][head]));
            var decay = Math.Exp(-step * Math.Exp(weights["A_log"][head]));
            for (var n = 0; n < states; n++)
            {
                state[(e * states) + n] = (decay * state[(e * states) + n]) + (step * value[e] * key[first + n]);
                y[e] += query[first + n] * state[(e * states) + n];
            }

            y[e] += weights["D"][head] * value[e];
        }

        return y;
    }

    private double[] Attend(double[] query, double[][] keys, double[][] values, int t)
    {
        var y = new double[inner];
        for (var head = 0; head < heads; head++)
        {
            var first = head / (heads / Groups) * states;
            var own = Rotate(query[first..(first + states)], t);
            var weights = Enumerable.Range(0, t + 1)
                .Select(j => Math.Exp(own.Zip(Rotate(keys[j][first..(first + states)], j), (q, k) => q * k).Sum() / Math.Sqrt(states))).ToArray();
            for (var e = head * HeadWidth; e < (head + 1) * HeadWidth; e++)
            {
                y[e] = weights.Select((weight, j) => weight * values[j][e]).Sum() / weights.Sum();
            }
        }

        return y;
    }

    private double[] Rotate(double[] head, int position)
    {
        var half = states / 2;
        var turned = (double[])head.Clone();
        for (var i = 0; options.UseRope && i < half; i++)
        {
            var angle = position * Math.Pow(options.RopeTheta, -(double)i / half);
            turned[i] = (head[i] * Math.Cos(angle)) - (head[i + half] * Math.Sin(angle));
            turned[i + half] = (head[i] * Math.Sin(angle)) + (head[i + half] * Math.Cos(angle));
        }

        return turned;
    }

    private double[] Norm(double[] y, double[] z)
    {
        var gated = y.Select((value, e) => value * Values.Silu(z[e])).ToArray();
        var scale = 1 / Math.Sqrt(gated.Average(value => value * value) + options.NormEps);
        return [.. gated.Select((value, e) => value * scale * weights["norm.weight"][e])];
    }

    private double[] Convolve(double[][] history, int t, int channels)
    {
        var taps = (int)options.DConv;
        var bias = weights.GetValueOrDefault("conv1d.bias");
        return [.. Enumerable.Range(0, channels).Select(e => Values.Silu((bias?[e] ?? 0) + Enumerable.Range(0, taps)
            .Where(k => t - (taps - 1) + k >= 0)
            .Sum(k => weights["conv1d.weight"][(e * taps) + k] * history[t - (taps - 1) + k][e])))];
    }

    private double[] Linear(string name, double[] x)
    {
        var weight = weights[name + ".weight"];
        var bias = weights.GetValueOrDefault(name + ".bias");
        return [.. Enumerable.Range(0, weight.Length / x.Length)
            .Select(row => (bias?[row] ?? 0) + x.Select((value, i) => weight[(row * x.Length) + i] * value).Sum())];
    }
}
