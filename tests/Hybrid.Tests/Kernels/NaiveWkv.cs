using Hybrid.Kernels;
using static TorchSharp.torch;

namespace Hybrid.Tests.Kernels;

/// <summary>The formulas of <see cref="Wkv"/> token by token in float64, with plain sums: keys must stay below about 300.</summary>
internal static class NaiveWkv
{
    /// <summary>Output [B, T, E] and the sums N and M after the last token, [B, E].</summary>
    public static (Tensor Y, Tensor Numerator, Tensor Denominator) Run(
        WkvForm form, Tensor decay, Tensor bonus, Tensor key, Tensor value, Tensor? numerator = null, Tensor? denominator = null)
    {
        var (n, d) = (numerator ?? zeros_like(key.select(1, 0)), denominator ?? zeros_like(key.select(1, 0)));
        var outputs = new List<Tensor>();
        for (var t = 0L; t < key.size(1); t++)
        {
            var (weight, v) = (key.select(1, t).exp(), value.select(1, t));
            if (form == WkvForm.Rwkv4)
            {
                var now = bonus.exp() * weight;
                outputs.Add((n + (now * v)) / (d + now));
                var keep = decay.exp().neg().exp();
                (n, d) = ((keep * n) + (weight * v), (keep * d) + weight);
            }
            else
            {
                // exp(-softplus(w)) is the logistic function of -w.
                var keep = decay.select(1, t).neg().sigmoid();
                (n, d) = ((keep * n) + (weight * v), (keep * d) + weight);
                var extra = (bonus.exp() - 1) * weight;
                outputs.Add((n + (extra * v)) / (d + extra + 1e-6));
            }
        }

        return (stack(outputs, 1), n, d);
    }
}
