using Hybrid.Layers;
using static TorchSharp.torch;

namespace Hybrid.Tests.Layers;

/// <summary>The formula of a layer of experts in plain loops, from its parameters: every expert of a token in turn, without grouping.</summary>
internal static class NaiveExperts
{
    /// <summary>Output and load-balance loss of tokens [N, D].</summary>
    public static (Tensor Y, double Balance) Run(MixtureOfExperts layer, Tensor x, ExpertWeighting weighting, int topK)
    {
        var (router, gateUp, down) = (Get("router.weight"), Get("experts.gate_up_proj"), Get("experts.down_proj"));
        var (tokens, width) = ((int)x.size(0), (int)x.size(1));
        var (inputs, output, experts) = (Values.Of(x), new double[tokens * width], router.Length / width);
        var inner = down.Length / (experts * width);
        var (load, share) = (new double[experts], new double[experts]);
        for (var t = 0; t < tokens; t++)
        {
            var token = inputs.AsSpan(t * width, width).ToArray();
            var sigmoid = weighting == ExpertWeighting.SigmoidTopkRenormalised;
            var logits = Product(router, 0, experts, token);
            var scores = logits.Select(logit => sigmoid ? Values.Sigmoid(logit) : Math.Exp(logit)).ToArray();
            var biased = sigmoid ? scores.Zip(Values.Of(layer.get_buffer("e_score_correction_bias")!), (s, b) => s + b).ToArray() : scores;
            var chosen = Enumerable.Range(0, experts).OrderByDescending(e => biased[e]).Take(topK).ToArray();
            var total = weighting == ExpertWeighting.SoftmaxThenTopk ? scores.Sum() : chosen.Sum(e => scores[e]);
            for (var e = 0; e < experts; e++)
            {
                share[e] += scores[e] / scores.Sum() / tokens;
            }

            foreach (var e in chosen)
            {
                load[e] += 1.0 / tokens;
                var gate = Product(gateUp, e * 2 * inner * width, inner, token);
                var up = Product(gateUp, ((e * 2) + 1) * inner * width, inner, token);
                Add(t, scores[e] / total, Product(down, e * width * inner, width, Gated(gate, up)));
            }

            if (layer.get_parameter("shared_expert_gate.weight") is not null)
            {
                var (ofGate, ofUp) = (Get("shared_expert.gate_proj.weight"), Get("shared_expert.up_proj.weight"));
                var (gate, up) = (Product(ofGate, 0, ofGate.Length / width, token), Product(ofUp, 0, ofUp.Length / width, token));
                var weight = Values.Sigmoid(Product(Get("shared_expert_gate.weight"), 0, 1, token)[0]);
                Add(t, weight, Product(Get("shared_expert.down_proj.weight"), 0, width, Gated(gate, up)));
            }
        }

        return (tensor(output).view(tokens, width), experts * load.Zip(share, (a, b) => a * b).Sum());

        double[] Get(string name) => Values.Of(layer.get_parameter(name)!);

        void Add(int t, double weight, double[] values)
        {
            for (var d = 0; d < width; d++)
            {
                output[(t * width) + d] += weight * values[d];
            }
        }
    }

    private static double[] Gated(double[] gate, double[] up) => [.. gate.Zip(up, (g, u) => Values.Silu(g) * u)];

    /// <summary>The product of the matrix that starts at an offset with a vector.</summary>
    private static double[] Product(double[] matrix, int offset, int rows, double[] vector) =>
        [.. Enumerable.Range(0, rows).Select(row => vector.Select((value, i) => value * matrix[offset + (row * vector.Length) + i]).Sum())];
}
