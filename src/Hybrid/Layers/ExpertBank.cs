using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>The weights of all experts, stacked as in checkpoints, and their evaluation on tokens that are grouped by expert.</summary>
internal sealed class ExpertBank : nn.Module
{
    /// <summary>[E, 2 I, D]: gate rows, then up rows.</summary>
    [ComponentName(Name = "gate_up_proj")]
    private readonly Parameter? gateUp;

    /// <summary>[E, I, D], of experts without a gate.</summary>
    [ComponentName(Name = "up_proj")]
    private readonly Parameter? up;

    [ComponentName(Name = "down_proj")]
    private readonly Parameter down;

    /// <param name="count">Experts E.</param>
    /// <param name="width">Model width D.</param>
    /// <param name="inner">Inner width I.</param>
    /// <param name="kind">SwiGLU or squared ReLU.</param>
    public ExpertBank(long count, long width, long inner, FeedForwardKind kind)
        : base(nameof(ExpertBank))
    {
        var bound = 1 / Math.Sqrt(width);
        (gateUp, up) = kind == FeedForwardKind.Swiglu
            ? (Uniform(bound, count, 2 * inner, width), (Parameter?)null)
            : (null, Uniform(bound, count, inner, width));
        down = Uniform(1 / Math.Sqrt(inner), count, width, inner);
        RegisterComponents();
    }

    /// <summary>The output matrices [E, D, I].</summary>
    public Parameter Down => down;

    /// <summary>Runs each expert on its own tokens.</summary>
    /// <param name="tokens">[M, D]: those of expert 0, then those of expert 1, and so on.</param>
    /// <param name="counts">Tokens of each expert; M in all.</param>
    /// <returns>[M, D].</returns>
    public Tensor Run(Tensor tokens, long[] counts)
    {
        // One unbind has one gradient of the whole stack; indexing by expert would make one for each expert.
        var (inputs, downs) = ((gateUp ?? up!).unbind(), down.unbind());
        var outputs = new List<Tensor>(counts.Length);
        var start = 0L;
        for (var e = 0; e < counts.Length; e++)
        {
            if (counts[e] > 0)
            {
                var projected = nn.functional.linear(tokens.narrow(0, start, counts[e]), inputs[e]);
                outputs.Add(nn.functional.linear(Activate(projected), downs[e]));
                start += counts[e];
            }
        }

        return cat(outputs, 0);
    }

    private Tensor Activate(Tensor projected)
    {
        if (gateUp is null)
        {
            return projected.relu().square();
        }

        var halves = projected.chunk(2, -1);
        return halves[0].silu() * halves[1];
    }

    /// <summary>Uniform within the bound, as a linear layer starts.</summary>
    private static Parameter Uniform(double bound, params long[] shape)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        return ModuleParameter.Make(() => empty(shape).uniform_(-bound, bound), shape);
    }
}
