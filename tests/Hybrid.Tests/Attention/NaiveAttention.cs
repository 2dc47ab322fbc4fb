using Hybrid.Attention;
using Hybrid.Tests.Layers;

namespace Hybrid.Tests.Attention;

/// <summary>Multi-head attention of one sequence, pair by pair in plain double arithmetic, from the parameters of a module.</summary>
internal sealed class NaiveAttention(MultiHeadAttention mixer, AttentionOptions options)
{
    private readonly Dictionary<string, double[]> weights =
        mixer.named_parameters().ToDictionary(entry => entry.name, entry => Values.Of(entry.parameter));

    private readonly int width = (int)mixer.Width;
    private readonly int heads = (int)options.NumHeads;
    private readonly int keyValueHeads = (int)(options.NumKeyValueHeads ?? options.NumHeads);
    private readonly int headWidth = (int)(options.HeadDim ?? (mixer.Width / options.NumHeads));

    /// <summary>Input [T, D] to output [T, D], both flat; the tokens of a prefix see each other.</summary>
    public double[] Run(double[] input, long prefix = 0)
    {
        var time = input.Length / width;
        var rows = Enumerable.Range(0, time).Select(t => input[(t * width)..((t + 1) * width)]).ToArray();
        var queries = rows.Select((row, t) => Heads("q_proj", row, heads, t)).ToArray();
        var keys = rows.Select((row, t) => Heads("k_proj", row, keyValueHeads, t)).ToArray();
        var values = rows.Select(row => Split(Linear("v_proj", row), keyValueHeads)).ToArray();
        return [.. Enumerable.Range(0, time).SelectMany(t =>
        {
            var mixed = Enumerable.Range(0, heads).SelectMany(head => Attend(queries[t][head], keys, values, head * keyValueHeads / heads, SeenBy(t)));
            return Linear("o_proj", [.. mixed]);
        })];

        int[] SeenBy(int t) =>
            [.. Enumerable.Range(0, time).Where(j => (j <= t && !(j <= t - options.WindowSize)) || Math.Max(j, t) < prefix)];
    }

    private double[] Attend(double[] query, double[][][] keys, double[][][] values, int group, int[] seen)
    {
        var scores = seen
            .Select(j => Math.Exp(Cap(query.Zip(keys[j][group], (q, k) => q * k).Sum() * (options.Scale ?? (1 / Math.Sqrt(headWidth)))))).ToArray();
        var result = new double[headWidth];
        for (var j = 0; j < seen.Length; j++)
        {
            for (var i = 0; i < headWidth; i++)
            {
                result[i] += scores[j] / scores.Sum() * values[seen[j]][group][i];
            }
        }

        return result;
    }

    private double Cap(double score) => options.SoftCap is { } cap ? cap * Math.Tanh(score / cap) : score;

    private double[][] Heads(string name, double[] row, int count, int position)
    {
        var split = Split(Linear(name, row), count);
        foreach (var head in split)
        {
            if (options.QkLayernorm)
            {
                Normalise(head);
            }

            if (options.UseRope)
            {
                Rotate(head, position);
            }
        }

        return split;
    }

    private double[][] Split(double[] joined, int count) =>
        [.. Enumerable.Range(0, count).Select(head => joined[(head * headWidth)..((head + 1) * headWidth)])];

    private static void Normalise(double[] head)
    {
        var mean = head.Average();
        var variance = head.Average(value => (value - mean) * (value - mean));
        for (var i = 0; i < head.Length; i++)
        {
            head[i] = (head[i] - mean) / Math.Sqrt(variance + 1e-6);
        }
    }

    private void Rotate(double[] head, int position)
    {
        var half = (int)(headWidth * options.PartialRotaryFactor) / 2;
        for (var i = 0; i < half; i++)
        {
            var angle = position * Math.Pow(options.RopeTheta, -(double)i / half)
                / (options.RopeScaling.Kind == RopeScalingKind.Linear ? options.RopeScaling.Factor : 1);
            var (first, second) = (head[i], head[i + half]);
            head[i] = (first * Math.Cos(angle)) - (second * Math.Sin(angle));
            head[i + half] = (first * Math.Sin(angle)) + (second * Math.Cos(angle));
        }
    }

    private double[] Linear(string name, double[] x)
    {
        var weight = weights[name + ".weight"];
        var bias = weights.GetValueOrDefault(name + ".bias");
        return [.. Enumerable.Range(0, weight.Length / x.Length)
            .Select(row => (bias?[row] ?? 0) + x.Select((value, i) => weight[(row * x.Length) + i] * value).Sum())];
    }
}
