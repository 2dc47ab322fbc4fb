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

    /// <summary>
    /// Sigmoid scores s. A bias of each expert is added for the choice only, <c>c = s + bias</c>; the weights are the s of the chosen divided by their
    /// sum (DeepSeek-V3, arXiv 2412.19437, section 2.1.2; Nemotron-H). The router computes in float32 at least.
    /// </summary>
    SigmoidTopkRenormalised,
}

/// <summary>Options of <see cref="MixtureOfExperts"/>, and which layers of a stack have one.</summary>
public sealed record MixtureOfExpertsOptions
{
    /// <summary>Number of experts E; at least 1. Default 8.</summary>
    public long NumExperts { get; init; } = 8;

    /// <summary>Experts k that each token goes to; 1..<see cref="NumExperts"/>. Default 2.</summary>
    public int TopK { get; init; } = 2;

    /// <summary>Inner width I of an expert; at least 1. Null means the default of <see cref="FeedForwardOptions.IntermediateSize"/> for the form.</summary>
    public long? IntermediateSize { get; init; }

    /// <summary>Form of the experts, the shared one included: SwiGLU (default) or squared ReLU.</summary>
    public FeedForwardKind ExpertKind { get; init; } = FeedForwardKind.Swiglu;

    /// <summary>Weights of the chosen experts. Default: softmax, then the k largest.</summary>
    public ExpertWeighting Weighting { get; init; } = ExpertWeighting.SoftmaxThenTopk;

    /// <summary>
    /// Groups of neighbouring experts, for <see cref="ExpertWeighting.SigmoidTopkRenormalised"/>: a token goes to experts of its
    /// <see cref="TopGroups"/> best groups only, a group being as good as the sum of its two best c. A divisor of
    /// <see cref="NumExperts"/> that leaves at least 2 experts a group. Default 1: no groups.
    /// </summary>
    public int NumGroups { get; init; } = 1;

    /// <summary>Groups that a token may go to; 1..<see cref="NumGroups"/>, with <see cref="TopK"/> experts or more in them. Default 1.</summary>
    public int TopGroups { get; init; } = 1;

    /// <summary>Factor of the weights of the chosen experts; positive. Default 1.</summary>
    public double RoutedScale { get; init; } = 1;

    /// <summary>Inner width of an expert that every token goes to; at least 1. Null leaves it out.</summary>
    public long? SharedExpertIntermediateSize { get; init; }

    /// <summary>Puts the shared expert behind a sigmoid gate of its own. Default true; false where there is none in the reference (Nemotron-H).</summary>
    public bool UseSharedExpertGate { get; init; } = true;

    /// <summary>In a stack, layers i (counted from 0) with i mod this = <see cref="ExpertOffset"/> have experts; at least 1. Default 1: every layer.</summary>
    public int ExpertEvery { get; init; } = 1;

    /// <summary>First layer of a stack that has experts; 0 up to, not including, <see cref="ExpertEvery"/>. Default 0.</summary>
    public int ExpertOffset { get; init; }

    /// <summary>Layers of a stack, counted from 0, that keep their feed-forward layer whatever the rule says; null, the default, means none.</summary>
    public IReadOnlyList<int>? DenseLayers { get; init; }

    /// <summary>
    /// Factor of the load-balance loss, averaged over the layers of a stack that have experts, in the training loss: see
    /// <see cref="MixerContext.AuxiliaryLosses"/>. 0 or more; default 0.001; 0 leaves it out.
    /// </summary>
    public double RouterAuxLossCoefficient { get; init; } = 0.001;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        const string owner = nameof(MixtureOfExpertsOptions);
        OptionRange.AtLeast(owner, nameof(NumExperts), NumExperts, 1);
        OptionRange.Between(owner, nameof(TopK), TopK, 1, NumExperts);
        OptionRange.AtLeast(owner, nameof(IntermediateSize), IntermediateSize ?? 1, 1);
        OptionRange.Positive(owner, nameof(RoutedScale), RoutedScale);
        OptionRange.AtLeast(owner, nameof(SharedExpertIntermediateSize), SharedExpertIntermediateSize ?? 1, 1);
        OptionRange.AtLeast(owner, nameof(ExpertEvery), ExpertEvery, 1);
        OptionRange.Between(owner, nameof(ExpertOffset), ExpertOffset, 0, ExpertEvery - 1);
        OptionRange.AtLeast(owner, nameof(RouterAuxLossCoefficient), RouterAuxLossCoefficient, 0);
        if (ExpertKind == FeedForwardKind.Gelu)
        {
            throw new ArgumentException($"{owner}: ExpertKind must be Swiglu or SquaredRelu, which have no biases; got {ExpertKind}.");
        }

        ValidateGroups(owner);
    }

    private void ValidateGroups(string owner)
    {
        OptionRange.AtLeast(owner, nameof(NumGroups), NumGroups, 1);
        OptionRange.Between(owner, nameof(TopGroups), TopGroups, 1, NumGroups);
        if (NumGroups == 1)
        {
            return;
        }

        if (Weighting != ExpertWeighting.SigmoidTopkRenormalised)
        {
            throw new ArgumentException($"{owner}: NumGroups needs Weighting SigmoidTopkRenormalised; got {Weighting}.");
        }

        if (NumExperts % NumGroups != 0 || NumExperts / NumGroups < 2)
        {
            throw new ArgumentException($"{owner}: NumGroups must cut the {NumExperts} experts into equal groups of at least 2; got {NumGroups}.");
        }

        if (TopK > NumExperts / NumGroups * TopGroups)
        {
            throw new ArgumentException(
                $"{owner}: TopK must be at most the {NumExperts / NumGroups * TopGroups} experts of {TopGroups} of the {NumGroups} groups; got {TopK}.");
        }
    }

    /// <summary>Whether a layer of a stack has experts.</summary>
    /// <param name="layer">Layer number, from 0.</param>
    /// <returns>True for experts, false for the feed-forward layer.</returns>
    public bool IsExpertLayer(int layer) => layer % ExpertEvery == ExpertOffset && DenseLayers?.Contains(layer) != true;
}

/// <summary>
/// Sparse feed-forward layer: <c>y = sum over the k chosen experts e of w_e down_e(SiLU(gate_e x) * up_e x)</c>, where a router chooses
/// for each token (Shazeer et al., arXiv 1701.06538; the forms of Jamba, Qwen3-Next, Granite 4 and, with <c>down_e(relu(up_e x)^2)</c>,
/// Nemotron-H), optionally <c>+ sigmoid(shared_gate x) shared(x)</c>. Tokens are grouped by expert, so only the chosen experts compute.
/// </summary>
/// <remarks>N tokens, D model width, E experts, k chosen of them, I inner width.</remarks>
public sealed class MixtureOfExperts : nn.Module<Tensor, Tensor>
{
    // Keeps the weights finite where every score of a token is 0.
    private const double SmallestSum = 1e-20;

    private readonly long width;
    private readonly MixtureOfExpertsOptions options;

    [ComponentName(Name = "router")]
    private readonly Linear router;

    [ComponentName(Name = "e_score_correction_bias")]
    private readonly Tensor? choiceBias;

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
        var form = new FeedForwardOptions { Kind = options.ExpertKind, IntermediateSize = options.IntermediateSize };
        router = ModuleParameter.Linear(width, options.NumExperts, hasBias: false);
        experts = new ExpertBank(options.NumExperts, width, form.ResolveIntermediateSize(width), options.ExpertKind);
        if (options.SharedExpertIntermediateSize is { } sharedSize)
        {
            sharedExpert = new FeedForward(width, form with { IntermediateSize = sharedSize });
            sharedExpertGate = options.UseSharedExpertGate ? ModuleParameter.Linear(width, 1, hasBias: false) : null;
        }

        if (options.Weighting == ExpertWeighting.SigmoidTopkRenormalised)
        {
            choiceBias = zeros(options.NumExperts).DetachFromDisposeScope();
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
    /// <c>E * sum over e of (choices of e / N) * mean over tokens of p_e</c>, where p is the softmax over all experts (with sigmoid scores,
    /// the scores divided by their sum). It is k where the spread is even and more where probable experts are also crowded; its gradient
    /// goes through p alone (Fedus et al., arXiv 2101.03961).
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
            var shared = sharedExpert.call(tokens);
            output = output + (sharedExpertGate is null ? shared : sharedExpertGate.call(tokens).sigmoid() * shared);
        }

        return (output.reshape(shape), withBalanceLoss ? BalanceLoss(logits, counts) : null);
    }

    /// <summary>Logits [N, E] in float32 or float64: which experts are chosen is not left to half precision's softmax.</summary>
    private Tensor Logits(Tensor tokens)
    {
        var type = tokens.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        return options.Weighting == ExpertWeighting.SigmoidTopkRenormalised
            ? nn.functional.linear(tokens.to_type(type), router.weight.to_type(type))
            : router.call(tokens).to_type(type);
    }

    /// <summary>Weights and numbers of the chosen experts, both [N, k], from logits [N, E].</summary>
    private (Tensor Weights, Tensor Chosen) Choose(Tensor logits)
    {
        var (weights, chosen) = options.Weighting switch
        {
            ExpertWeighting.TopkThenSoftmax => logits.topk(options.TopK),
            ExpertWeighting.SigmoidTopkRenormalised => ChooseByScore(logits.sigmoid()),
            _ => logits.softmax(-1).topk(options.TopK),
        };
        weights = options.Weighting switch
        {
            ExpertWeighting.TopkThenSoftmax => weights.softmax(-1),
            ExpertWeighting.SigmoidTopkRenormalised => weights / (weights.sum(-1, keepdim: true) + SmallestSum),
            ExpertWeighting.SoftmaxTopkRenormalised => weights / weights.sum(-1, keepdim: true),
            _ => weights,
        };
        return (options.RoutedScale == 1 ? weights : weights * options.RoutedScale, chosen);
    }

    /// <summary>The scores [N, k] of the experts whose biased scores are best inside the best groups, and their numbers.</summary>
    private (Tensor Scores, Tensor Chosen) ChooseByScore(Tensor scores)
    {
        var biased = scores.detach() + choiceBias!.to_type(scores.dtype);                // [N, E]
        if (options.TopGroups < options.NumGroups)
        {
            var byGroup = biased.view(-1, options.NumGroups, options.NumExperts / options.NumGroups);
            var best = byGroup.topk(2).values.sum(-1).topk(options.TopGroups).indexes;   // [N, groups kept]
            var dropped = ones([biased.size(0), options.NumGroups], dtype: ScalarType.Bool, device: biased.device).scatter_(
                1, best, zeros_like(best, dtype: ScalarType.Bool));
            biased = byGroup.masked_fill(dropped.unsqueeze(-1), double.NegativeInfinity).flatten(1);
        }

        var chosen = biased.topk(options.TopK).indexes;
        return (scores.gather(1, chosen), chosen);
    }

    private Tensor BalanceLoss(Tensor logits, Tensor counts)
    {
        var scores = options.Weighting == ExpertWeighting.SigmoidTopkRenormalised ? logits.sigmoid() : null;
        var probabilities = scores is null ? logits.softmax(-1) : scores / (scores.sum(-1, keepdim: true) + SmallestSum);
        var load = counts.to_type(logits.dtype) / logits.size(0);
        return (load * probabilities.mean([0L])).sum() * options.NumExperts;
    }
}
