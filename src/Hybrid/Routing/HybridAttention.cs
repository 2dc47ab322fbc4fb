using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Mixers;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>Options of <see cref="HybridAttention"/>.</summary>
public sealed record HybridAttentionOptions
{
    /// <summary>Length, in tokens, from which sequences go to the state-space branch; at least 1. Default 512.</summary>
    public long MambaThreshold { get; init; } = 512;

    /// <summary>Longest sequence for attention, in tokens; at least 1. Default 2048.</summary>
    public long TransformerMaxLength { get; init; } = 2048;

    /// <summary>How the policy states its confidence. Default: margin.</summary>
    public ConfidenceKind Confidence { get; init; } = ConfidenceKind.Margin;

    /// <summary>
    /// True (the default) where the router stands alone: each branch is <c>x + mixer(norm x)</c>, then <c>x + ffn(norm x)</c>. False
    /// inside a backbone, whose blocks have the norm and the residual.
    /// </summary>
    public bool ResidualBranches { get; init; } = true;

    /// <summary>Inner width of the branches' feed-forward layer; null means its default for the width.</summary>
    public long? IntermediateSize { get; init; }

    /// <summary>Dropout on each residual branch while training. Default 0.1; without residual branches it does not apply.</summary>
    public double DropoutRate { get; init; } = 0.1;

    /// <summary>Epsilon of the branches' norms; positive. Default 1e-12.</summary>
    public double LayerNormEps { get; init; } = 1e-12;

    /// <summary>The attention branch.</summary>
    public AttentionOptions AttentionConfig { get; init; } = new();

    /// <summary>The state-space branch.</summary>
    public MambaOptions MambaConfig { get; init; } = new();

    /// <summary>
    /// Two branches with weights of their own (the default), or one set of weights that serves both, as <see cref="SharedConfig"/> says.
    /// </summary>
    public BranchWeights Weights { get; init; }

    /// <summary>The mixer of shared weights, its TransPoint being <see cref="MambaThreshold"/> unless given; null means its defaults.</summary>
    public TransPointOptions? SharedConfig { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(HybridAttentionOptions), nameof(MambaThreshold), MambaThreshold, 1);
        OptionRange.AtLeast(nameof(HybridAttentionOptions), nameof(TransformerMaxLength), TransformerMaxLength, 1);
        OptionRange.AtLeast(nameof(HybridAttentionOptions), nameof(IntermediateSize), IntermediateSize ?? 1, 1);
        OptionRange.DropRate(nameof(HybridAttentionOptions), nameof(DropoutRate), DropoutRate);
        OptionRange.Positive(nameof(HybridAttentionOptions), nameof(LayerNormEps), LayerNormEps);
        SharedWeights.Validate(this);
    }
}

/// <summary>
/// The router: a short sequence goes to attention, a long one to Mamba. Both branches are causal and wrapped alike, so that the route
/// changes neither causality nor the class of functions. The route of a sequence is chosen at its first call and stays with its state:
/// a key-value cache is not a recurrent state.
/// </summary>
/// <remarks>A padded batch is routed as a whole, by its longest row.</remarks>
public sealed class HybridAttention : SequenceMixer
{
    private readonly LengthThresholdPolicy policy;
    private readonly Lock countersLock = new();
    private long mambaCount;
    private long attentionCount;
    private long totalLength;
    private RoutingDecision? last;

    [ComponentName(Name = "attention")]
    private readonly SequenceMixer attention;

    [ComponentName(Name = "mamba")]
    private readonly SequenceMixer mamba;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Policy and branches; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public HybridAttention(long width, HybridAttentionOptions? options = null)
        : base(nameof(HybridAttention), width)
    {
        options ??= new HybridAttentionOptions();
        options.Validate();
        if (options.Weights == BranchWeights.Shared)
        {
            throw new ArgumentException(
                "HybridAttention: shared weights leave nothing to route; MixerRegistry.Create(\"hybrid_attention\", ...) makes their mixer.", nameof(options));
        }

        policy = new LengthThresholdPolicy(options.MambaThreshold, options.TransformerMaxLength, options.Confidence);
        attention = Wrap(new MultiHeadAttention(width, options.AttentionConfig), options);
        mamba = Wrap(new MambaMixer(width, options.MambaConfig), options);
        RegisterComponents();
    }

    /// <summary>Sends every new sequence down one branch, whatever the policy says; null, the default, lets the policy decide.</summary>
    public Route? Override { get; set; }

    /// <summary>The mixer of a branch, without its norms.</summary>
    /// <param name="route">Which branch.</param>
    /// <returns>The mixer.</returns>
    public SequenceMixer Branch(Route route) => Select(route) is ResidualBlock { Mixer: { } mixer } ? mixer : Select(route);

    /// <summary>What the router would decide for a sequence of this length now. Counts nothing.</summary>
    /// <param name="length">Length in tokens; at least 1.</param>
    /// <returns>The decision.</returns>
    public RoutingDecision Decide(long length) => Override is { } forced ? policy.Force(forced, length) : policy.Decide(length, training);

    /// <summary>The counts so far.</summary>
    /// <returns>A snapshot.</returns>
    public RoutingMetrics GetMetrics()
    {
        lock (countersLock)
        {
            var total = mambaCount + attentionCount;
            return new RoutingMetrics(total, mambaCount, attentionCount, total == 0 ? 0 : (double)totalLength / total, last);
        }
    }

    /// <summary>Sets the counts to zero.</summary>
    public void ResetMetrics()
    {
        lock (countersLock)
        {
            (mambaCount, attentionCount, totalLength, last) = (0, 0, 0, null);
        }
    }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => attention.ResidualOutputWeights.Concat(mamba.ResidualOutputWeights);

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        return new RoutedState(batchSize, this);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        var shape = x.shape;
        if (shape is not [>= 1, >= 1, var width] || width != Width)
        {
            throw new ArgumentException($"{GetName()}: x must be [B, T, {Width}] with B, T >= 1; got [{string.Join(", ", shape)}].", nameof(x));
        }

        var state = RequireState<RoutedState>(context.State, shape[0]);
        if (state?.Inner is { } chosen)
        {
            return Run(state.Route!.Value, chosen);
        }

        // Lengths that are wrong are refused by the branch.
        var decision = Decide(context.Lengths is { Count: > 0 } lengths ? Math.Max(1, lengths.Max()) : shape[1]);
        if (state is null)
        {
            var output = Run(decision.Route, null);
            Count(decision);
            return output;
        }

        // The state is the sequence's own from the first call that succeeds on; a refused call leaves it unrouted.
        var fresh = Select(decision.Route).CreateState(shape[0]);
        try
        {
            var y = Run(decision.Route, fresh);
            Count(decision);
            state.Choose(decision, fresh);
            return y;
        }
        catch
        {
            fresh.Dispose();
            throw;
        }

        Tensor Run(Route route, MixerState? inner)
        {
            var y = Select(route).forward(x, context.WithState(inner));
            state?.Advance(shape[1], context.Lengths);
            return y;
        }
    }

    /// <summary>Adds a decision to the counts; from any thread.</summary>
    internal void Count(RoutingDecision decision)
    {
        lock (countersLock)
        {
            mambaCount += decision.Route == Route.Mamba ? 1 : 0;
            attentionCount += decision.Route == Route.Attention ? 1 : 0;
            totalLength += decision.Length;
            last = decision;
        }
    }

    internal SequenceMixer Select(Route route) => route == Route.Mamba ? mamba : attention;

    /// <summary>A branch: the mixer in its residual block, if the options ask for one.</summary>
    internal static SequenceMixer Wrap(SequenceMixer mixer, HybridAttentionOptions options) =>
        !options.ResidualBranches
            ? mixer
            : new ResidualBlock(mixer, new BlockOptions
            {
                NormEps = options.LayerNormEps,
                DropoutRate = options.DropoutRate,
                FeedForward = new FeedForwardOptions { IntermediateSize = options.IntermediateSize },
            });
}
