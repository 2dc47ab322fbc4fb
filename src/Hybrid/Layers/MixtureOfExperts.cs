using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>How the router's logits become the weights of the chosen experts.</summary>
public enum ExpertWeighting
{
    /// <summary>Softmax over all experts; the chosen keep their share, so the weights sum to less than 1 (Jamba).</summary>
    SoftmaxThenTopk,

    /// <summary>Softmax over all experts; the shares of the chosen are divided by their sum (Qwen3-Next).</summary>
    SoftmaxTopkRenormalised,

    /// <summary>Softmax over the chosen logits alone (Granite); the same numbers as the renormalised form.</summary>
    TopkThenSoftmax,
}

/// <summary>Options of <see cref="MixtureOfExperts"/>, and which layers of a stack have one.</summary>
public sealed record MixtureOfExpertsOptions
{
    /// <summary>Number of experts E; at least 1. Default 8.</summary>
    public long NumExperts { get; init; } = 8;

    /// <summary>Experts k that each token goes to; 1..<see cref="NumExperts"/>. Default 2.</summary>
    public int TopK { get; init; } = 2;

    /// <summary>Inner width I of an expert; at least 1. Null means 8/3 D rounded up to a multiple of 8.</summary>
    public long? IntermediateSize { get; init; }

    /// <summary>Weights of the chosen experts. Default: softmax, then the k largest.</summary>
    public ExpertWeighting Weighting { get; init; } = ExpertWeighting.SoftmaxThenTopk;

    /// <summary>Inner width of an expert that every token goes to, behind a sigmoid gate; at least 1. Null leaves it out.</summary>
    public long? SharedExpertIntermediateSize { get; init; }

    /// <summary>In a stack, layers i (counted from 0) with i mod this = <see cref="ExpertOffset"/> have experts; at least 1. Default 1: every layer.</summary>
    public int ExpertEvery { get; init; } = 1;

    /// <summary>First layer of a stack that has experts; 0 up to, not including, <see cref="ExpertEvery"/>. Default 0.</summary>
    public int ExpertOffset { get; init; }

    /// <summary>Share of the load-balance loss in a language model's training loss; 0 or more. Default 0.001; 0 leaves it out.</summary>
    public double RouterAuxLossCoefficient { get; init; } = 0.001;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        const string owner = nameof(MixtureOfExpertsOptions);
        OptionRange.AtLeast(owner, nameof(NumExperts), NumExperts, 1);
        OptionRange.Between(owner, nameof(TopK), TopK, 1, NumExperts);
        OptionRange.AtLeast(owner, nameof(IntermediateSize), IntermediateSize ?? 1, 1);
        OptionRange.AtLeast(owner, nameof(SharedExpertIntermediateSize), SharedExpertIntermediateSize ?? 1, 1);
        OptionRange.AtLeast(owner, nameof(ExpertEvery), ExpertEvery, 1);
        OptionRange.Between(owner, nameof(ExpertOffset), ExpertOffset, 0, ExpertEvery - 1);
        OptionRange.AtLeast(owner, nameof(RouterAuxLossCoefficient), RouterAuxLossCoefficient, 0);
    }

    /// <summary>Whether a layer of a stack has experts.</summary>
    /// <param name="layer">Layer number, from 0.</param>
    /// <returns>True for experts, false for the feed-forward layer.</returns>
    public bool IsExpertLayer(int layer) => layer % ExpertEvery == ExpertOffset;
}

/// <summary>
/// Sparse feed-forward layer: <c>y = sum over the k chosen experts e of w_e down_e(SiLU(gate_e x) * up_e x)</c>, where a router chooses
/// for each token (Shazeer et al., arXiv 1701.06538; the forms of Jamba, Qwen3-Next and Granite 4), optionally
/// <c>+ sigmoid(shared_gate x) shared(x)</c>. Tokens are grouped by expert, so only the chosen experts compute.
/// </summary>
/// <remarks>N tokens, D model width, E experts, k chosen of them, I inner width.</remarks>
public sealed class MixtureOfExperts : nn.Module<Tensor, Tensor>
{
    private readonly long width;
    private readonly MixtureOfExpertsOptions options;

    [ComponentName(Name = "router")]
    private readonly Linear router;

    [ComponentName(Name = "experts")]
    private readonly ExpertBank experts;

    [ComponentName(Name = "shared_expert")]
    private readonly FeedForward? sharedExpert;

    [ComponentName(Name = "shared_expert_gate")]
    private readonly Linear? sharedExpertGate;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Experts and routing; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public MixtureOfExperts(long width, MixtureOfExpertsOptions? options = null)
        : base(nameof(MixtureOfExperts))
    {
        options ??= new MixtureOfExpertsOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        options.Validate();
        this.width = width;
        this.options = options;
        var inner = new FeedForwardOptions { IntermediateSize = options.IntermediateSize }.ResolveIntermediateSize(width);
        router = nn.Linear(width, options.NumExperts, hasBias: false);
        experts = new ExpertBank(options.NumExperts, width, inner);
        if (options.SharedExpertIntermediateSize is { } sharedSize)
        {
            sharedExpert = new FeedForward(width, new FeedForwardOptions { IntermediateSize = sharedSize });
            sharedExpertGate = nn.Linear(width, 1, hasBias: false);
        }

        RegisterComponents();
    }

    /// <summary>The weights that write into the residual stream.</summary>
    internal IEnumerable<Parameter> ResidualOutputWeights =>
        sharedExpert is null ? [experts.Down] : [experts.Down, sharedExpert.ResidualOutputWeight];

    /// <summary>Applies the layer to every position.</summary>
    /// <param name="input">[..., D].</param>
    /// <returns>[..., D].</returns>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        return Run(input, withBalanceLoss: false).Output.MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Applies the layer and measures how evenly the router spreads the tokens:
    /// <c>E * sum over e of (choices of e / N) * mean over tokens of p_e</c>, where p is the softmax over all experts. It is k where the
    /// spread is even and more where probable experts are also crowded; its gradient goes through p alone (Fedus et al., arXiv 2101.03961).
    /// </summary>
    /// <param name="input">[..., D].</param>
    /// <returns>Output [..., D] and the load-balance loss, a scalar (float32, or float64 for float64 inputs).</returns>
    public (Tensor Output, Tensor BalanceLoss) ForwardWithBalanceLoss(Tensor input)
    {
        using var scope = NewDisposeScope();
        var (output, loss) = Run(input, withBalanceLoss: true);
        return (output.MoveToOuterDisposeScope(), loss!.MoveToOuterDisposeScope());
    }

    private (Tensor Output, Tensor? BalanceLoss) Run(Tensor input, bool withBalanceLoss)
    {
        var shape = input.shape;
        if (shape.Length == 0 || shape[^1] != width || shape.Contains(0))
        {
            throw new ArgumentException(
                $"MixtureOfExperts: the input must be [..., {width}] with at least one token; got [{string.Join(", ", shape)}].", nameof(input));
        }

        var tokens = input.reshape(-1, width);
        var logits = Logits(tokens);
        var (weights, chosen) = Choose(logits);
        var choices = chosen.reshape(-1);
        var counts = zeros(options.NumExperts, dtype: ScalarType.Int64, device: input.device).scatter_add_(0, choices, ones_like(choices));

        // The choices [N k], ordered by expert, and the token of each.
        var order = choices.sort(0, descending: false, stable: true).Indices;
        var rows = order.floor_divide(options.TopK);
        var computed = experts.Run(tokens.index_select(0, rows), counts.cpu().data<long>().ToArray());
        var weighted = computed * weights.reshape(-1, 1).index_select(0, order).to_type(computed.dtype);
        var output = zeros_like(tokens).index_add(0, rows, weighted, 1);
        if (sharedExpert is not null)
        {
            output = output + (sharedExpertGate!.call(tokens).sigmoid() * sharedExpert.call(tokens));
        }

        return (output.reshape(shape), withBalanceLoss ? BalanceLoss(logits, counts) : null);
    }

    /// <summary>Logits [N, E] in float32 or float64: which experts are chosen is not left to half precision's softmax.</summary>
    private Tensor Logits(Tensor tokens)
    {
        var logits = router.call(tokens);
        return logits.dtype == ScalarType.Float64 ? logits : logits.to_type(ScalarType.Float32);
    }

    /// <summary>Weights and numbers of the chosen experts, both [N, k], from logits [N, E].</summary>
    private (Tensor Weights, Tensor Chosen) Choose(Tensor logits)
    {
        if (options.Weighting == ExpertWeighting.TopkThenSoftmax)
        {
            var (largest, indices) = logits.topk(options.TopK);
            return (largest.softmax(-1), indices);
        }

        var (weights, chosen) = logits.softmax(-1).topk(options.TopK);
        return (options.Weighting == ExpertWeighting.SoftmaxTopkRenormalised ? weights / weights.sum(-1, keepdim: true) : weights, chosen);
    }

    private Tensor BalanceLoss(Tensor logits, Tensor counts)
    {
        var probabilities = logits.softmax(-1).mean([0L]);
        var load = counts.to_type(logits.dtype) / logits.size(0);
        return (load * probabilities).sum() * options.NumExperts;
    }
}

/// <summary>The weights of all experts, stacked as in checkpoints, and their evaluation on tokens that are grouped by expert.</summary>
internal sealed class ExpertBank : nn.Module
{
    [ComponentName(Name = "gate_up_proj")]
    private readonly Parameter gateUp;

    [ComponentName(Name = "down_proj")]
    private readonly Parameter down;

    /// <param name="count">Experts E.</param>
    /// <param name="width">Model width D.</param>
    /// <param name="inner">Inner width I.</param>
    public ExpertBank(long count, long width, long inner)
        : base(nameof(ExpertBank))
    {
        gateUp = Uniform(1 / Math.Sqrt(width), count, 2 * inner, width);
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
        var (gateUps, downs) = (gateUp.unbind(), down.unbind());
        var outputs = new List<Tensor>(counts.Length);
        var start = 0L;
        for (var e = 0; e < counts.Length; e++)
        {
            if (counts[e] > 0)
            {
                var halves = nn.functional.linear(tokens.narrow(0, start, counts[e]), gateUps[e]).chunk(2, -1);
                outputs.Add(nn.functional.linear(halves[0].silu() * halves[1], downs[e]));
                start += counts[e];
            }
        }

        return cat(outputs, 0);
    }

    /// <summary>Uniform within the bound, as a linear layer starts.</summary>
    private static Parameter Uniform(double bound, params long[] shape)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        return ModuleParameter.Own(empty(shape).uniform_(-bound, bound));
    }
}
