using Hybrid.Attention;
using Hybrid.Mixers;
using Hybrid.Routing;
using Hybrid.Tests.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Tests.Routing;

/// <summary>The parts of a layer as modules of their own, its gate and its cross attention as plain loops.</summary>
internal sealed class NaiveParallelHybrid : IDisposable
{
    private const int Width = (int)SmallParallelHybrid.Width;
    private readonly Dictionary<string, Tensor> weights;

    public NaiveParallelHybrid(ParallelHybrid mixer)
    {
        weights = mixer.state_dict();
        Mamba = new MambaMixer(Width, new MambaOptions { DState = 4, DtRank = 2 });
        Attention = new MultiHeadAttention(Width, new AttentionOptions { NumHeads = 2 });
        Load(Mamba, "mamba.");
        Load(Attention, "attention.");
    }

    public MambaMixer Mamba { get; }

    public MultiHeadAttention Attention { get; }

    public Tensor Project(Tensor x) => nn.functional.linear(x, weights["out_proj.weight"]);

    /// <summary>The weights [1, T, 3] of one sequence.</summary>
    public Tensor Gates(Tensor x)
    {
        var time = (int)x.size(1);
        var (values, mean, gates) = (Values.Of(x), new double[Width], new double[time * 3]);
        for (var t = 0; t < time; t++)
        {
            var token = values[(t * Width)..((t + 1) * Width)];
            for (var i = 0; i < Width; i++)
            {
                mean[i] += (token[i] - mean[i]) / (t + 1);
            }

            double[] features =
            [
                t == 0 ? 0 : token.Select((value, i) => Math.Abs(value - values[((t - 1) * Width) + i])).Average(),
                token.Average(value => Math.Pow(value - token.Average(), 2)),
                token.Select((value, i) => Math.Abs(value - mean[i])).Average(),
            ];
            var logits = Affine("fc3", Gelu(Affine("fc2", Gelu(Affine("fc1", features)))));
            for (var path = 0; path < 3; path++)
            {
                gates[(t * 3) + path] = Math.Exp(logits[path]) / logits.Sum(Math.Exp);
            }
        }

        return Values.Tensor32(gates, 1, time, 3);
    }

    /// <summary>softmax(Q(queries) K(source)^T / sqrt K) V(source) over the tokens so far, with rotary positions.</summary>
    public Tensor CrossAttention(Tensor queries, Tensor source)
    {
        const int heads = 2;
        const int headWidth = Width / heads;
        var time = (int)queries.size(1);
        var (q, k, v) = (Rows("q_proj", queries), Rows("k_proj", source), Rows("v_proj", source));
        var mixed = new double[time * Width];
        for (var t = 0; t < time; t++)
        {
            for (var head = 0; head < heads; head++)
            {
                var asked = Rotate(q[t], head, t);
                var scores = Enumerable.Range(0, t + 1)
                    .Select(j => Math.Exp(asked.Zip(Rotate(k[j], head, j), (left, right) => left * right).Sum() / Math.Sqrt(headWidth))).ToArray();
                for (var i = 0; i < headWidth; i++)
                {
                    mixed[(t * Width) + (head * headWidth) + i] =
                        Enumerable.Range(0, t + 1).Sum(j => scores[j] / scores.Sum() * v[j][(head * headWidth) + i]);
                }
            }
        }

        return nn.functional.linear(Values.Tensor32(mixed, 1, time, Width), weights["fusion.o_proj.weight"]);

        double[][] Rows(string name, Tensor x)
        {
            var flat = Values.Of(nn.functional.linear(x, weights[$"fusion.{name}.weight"]));
            return [.. Enumerable.Range(0, time).Select(t => flat[(t * Width)..((t + 1) * Width)])];
        }

        static double[] Rotate(double[] row, int head, int position)
        {
            var turned = row[(head * headWidth)..((head + 1) * headWidth)];
            for (var i = 0; i < headWidth / 2; i++)
            {
                var angle = position * Math.Pow(10_000, -2.0 * i / headWidth);
                var (first, second) = (turned[i], turned[i + (headWidth / 2)]);
                turned[i] = (first * Math.Cos(angle)) - (second * Math.Sin(angle));
                turned[i + (headWidth / 2)] = (first * Math.Sin(angle)) + (second * Math.Cos(angle));
            }

            return turned;
        }
    }

    public void Dispose()
    {
        Mamba.Dispose();
        Attention.Dispose();
    }

    private void Load(nn.Module module, string prefix) => module.load_state_dict(
        weights.Where(entry => entry.Key.StartsWith(prefix, StringComparison.Ordinal)).ToDictionary(entry => entry.Key[prefix.Length..], entry => entry.Value));

    private double[] Affine(string name, double[] x)
    {
        var (weight, bias) = (Values.Of(weights[$"analyser.{name}.weight"]), Values.Of(weights[$"analyser.{name}.bias"]));
        return [.. bias.Select((offset, row) => offset + x.Select((value, i) => weight[(row * x.Length) + i] * value).Sum())];
    }

    private static double[] Gelu(double[] x) => Values.Of(tensor(x).gelu());
}
