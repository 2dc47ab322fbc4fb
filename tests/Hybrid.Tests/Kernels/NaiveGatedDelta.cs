using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>The gated delta rule as it is written: one token after the other.</summary>
internal static class NaiveGatedDelta
{
    /// <summary>q, k [B, T, H, K]; v [B, T, H, V]; beta, g [B, T, H]; state [B, H, K, V].</summary>
    public static (Tensor O, Tensor State) Run(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor g, Tensor state, double scale)
    {
        var outputs = new List<Tensor>();
        for (var t = 0; t < q.size(1); t++)
        {
            var (key, value, query) = (At(k, t).unsqueeze(-1), At(v, t).unsqueeze(-2), At(q, t).unsqueeze(-1));
            state = state * At(g, t).exp().unsqueeze(-1).unsqueeze(-1);
            var held = (state * key).sum(-2, keepdim: true);                             // [B, H, 1, V]
            state = state + (key * ((value - held) * At(beta, t).unsqueeze(-1).unsqueeze(-1)));
            outputs.Add((state * query).sum(-2) * scale);
        }

        return (stack(outputs, 1), state);
    }

    private static Tensor At(Tensor x, long t) => x.select(1, t);
}
