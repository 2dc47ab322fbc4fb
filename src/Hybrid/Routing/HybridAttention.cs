using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Mixers;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>
/// The router: a <see cref="RoutingPolicy"/> sends each sequence to attention or to Mamba, by default short ones to attention and long ones
/// to Mamba. Both branches are causal and wrapped alike, so that the route changes neither causality nor the class of functions. The
/// route of a sequence is chosen at its first call and stays with its state: a key-value cache is not a recurrent state.
/// </summary>
/// <remarks>
/// With <see cref="MixerContext.Lengths"/> each row is decided on its own, as with a policy that reads content; rows are grouped by route,
/// run and put back, which equals calls row by row. Without, the batch is one decision.
/// </remarks>
public sealed partial class HybridAttention : SequenceMixer
{
    private readonly HybridAttentionOptions options;
    private readonly Lock countersLock = new();
    private volatile RouteDecider decider;
    private long mambaCount;
    private long attentionCount;
    private long totalLength;
    private RoutingDecision? last;
    private long newBatches;

    [ComponentName(Name = "attention")]
    private readonly SequenceMixer attention;

    [ComponentName(Name = "mamba")]
    private readonly SequenceMixer mamba;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Policy and branches; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width, or asks for shared weights.</exception>
    public HybridAttention(long width, HybridAttentionOptions? options = null)
        : base(nameof(HybridAttention), width)
    {
        this.options = options ??= new HybridAttentionOptions();
        options.Validate();
        if (options.Weights == BranchWeights.Shared)
        {
            throw new ArgumentException(
                "HybridAttention: shared weights leave nothing to route; MixerRegistry.Create(\"hybrid_attention\", ...) makes their mixer.", nameof(options));
        }

        decider = new RouteDecider(RoutingPolicyRegistry.Create(options), options);
        attention = Wrap(new MultiHeadAttention(width, options.AttentionConfig), options);
        mamba = Wrap(new MambaMixer(width, options.MambaConfig), options);
        RegisterComponents();
        if (options.UseMixedPrecision)
        {
            this.ToMixedPrecision();
        }
    }

    /// <summary>Sends every new sequence down one branch, whatever the policy says; null, the default, lets the policy decide.</summary>
    public Route? Override { get; set; }

    /// <summary>What decides. Setting it, also to the same policy, empties the decision cache.</summary>
    public RoutingPolicy Policy
    {
        get => decider.Policy;
        set => decider = new RouteDecider(value, options);
    }

    /// <summary>Receives decisions where <see cref="HybridAttentionOptions.LogDecisions"/> is set. Default: nobody.</summary>
    public ILogger Logger { get; set; } = NullLogger.Instance;

    /// <summary>Scores the outputs of <see cref="Run"/>. Default: none.</summary>
    public IQualityProbe? QualityProbe { get; set; }

    /// <summary>Free memory of a device in MiB, or null where unknown, for policies that read it. Default: <see cref="FreeMemory.OfDevice"/>.</summary>
    public Func<Device, long?> MemoryProbe { get; set; } = FreeMemory.OfDevice;

    /// <summary>The mixer of a branch, without its norms.</summary>
    /// <param name="route">Which branch.</param>
    /// <returns>The mixer.</returns>
    public SequenceMixer Branch(Route route) => Select(route) is ResidualBlock { Mixer: { } mixer } ? mixer : Select(route);

    /// <summary>
    /// What the router would decide for a sequence of this length now, on the CPU in float32. Counts nothing but the hits and misses of the
    /// cache.
    /// </summary>
    /// <param name="length">Length in tokens; at least 1.</param>
    /// <returns>The decision.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="length"/> is below 1.</exception>
    public RoutingDecision Decide(long length) => Decide(new RoutingRequest(length) { Training = training });

    /// <summary>What the router would decide now. Counts nothing but the hits and misses of the cache.</summary>
    /// <param name="request">What is known of the sequence.</param>
    /// <returns>The decision.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The request's length or batch size is below 1.</exception>
    public RoutingDecision Decide(in RoutingRequest request) =>
        Override is { } forced ? Policy.Force(forced, request.Length) : decider.Decide(request);

    /// <summary>
    /// Measures both branches over lengths, on the device and with the dtype of the weights, and lets an <see cref="AdaptivePolicy"/> of
    /// this router use it. Before, both run for 0.2 s to 5 s, until the runtime has optimised their code.
    /// </summary>
    /// <param name="lengths">Lengths in tokens, ascending.</param>
    /// <param name="batchSize">Sequences of a call; at least 1.</param>
    /// <param name="repeats">Runs a length, of which the median counts; at least 1.</param>
    /// <returns>The measurement, which can be saved as TOML.</returns>
    public RoutingCalibration Calibrate(IReadOnlyList<long> lengths, long batchSize = 1, int repeats = 5)
    {
        var calibration = RoutingCalibration.Measure(this, lengths, batchSize, repeats);
        (Policy as AdaptivePolicy)?.Adopt(calibration);
        return calibration;
    }

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

    /// <summary>The counts of the decision cache; all zero without one.</summary>
    /// <returns>A snapshot.</returns>
    public DecisionCacheMetrics GetCacheMetrics() => decider.Cache?.GetMetrics() ?? default;

    /// <summary>Sets the counts to zero, those of the cache too.</summary>
    public void ResetMetrics()
    {
        lock (countersLock)
        {
            (mambaCount, attentionCount, totalLength, last) = (0, 0, 0, null);
        }

        decider.Cache?.ResetMetrics();
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
    public override Tensor forward(Tensor x, MixerContext context) => Execute(x, context, CallTiming.None).Output;

    /// <summary>Runs the router and says what it did.</summary>
    /// <param name="x">Input [B, T, D].</param>
    /// <param name="context">State, padding, packed rows; null means none.</param>
    /// <returns>Output [B, T, D], in the caller's dispose scope, and the metrics of the call.</returns>
    public HybridOutput<RoutingCallMetrics> Run(Tensor x, MixerContext? context = null)
    {
        context ??= MixerContext.None;
        using var scope = NewDisposeScope();
        var before = context.State is RoutedState { Groups.Count: > 0 };
        var call = Execute(x, context, options.Timing);
        var groups = call.Groups.Select(group => group.Route).Distinct().ToArray();
        var metrics = new RoutingCallMetrics
        {
            Decisions = call.Decisions,
            SelectedModule = groups is [var only] ? RoutingTelemetry.NameOf(only) : "mixed",
            Complexity = groups.Contains(Route.Attention) ? AttentionComplexity : ((MambaMixer)Branch(Route.Mamba)).Complexity(x),
            SequenceLength = x.size(1),
            BatchSize = x.size(0),
            Continued = before,
            RouterTimeUs = call.RouterTimeUs,
            ProcessingTimeMs = call.ProcessingTimeMs,
            QualityScore = QualityProbe?.Score(call.Output, context),
            BranchAgreement = before || groups.Length > 1 ? null : Shadow(groups[0], x, context, call.Output),
        };
        return new HybridOutput<RoutingCallMetrics>(call.Output.MoveToOuterDisposeScope(), metrics);
    }

    /// <summary>Adds a decision to the counts, where they are kept; from any thread.</summary>
    internal void Count(in RoutingDecision decision)
    {
        if (!options.CollectMetrics)
        {
            return;
        }

        lock (countersLock)
        {
            mambaCount += decision.Route == Route.Mamba ? 1 : 0;
            attentionCount += decision.Route == Route.Attention ? 1 : 0;
            totalLength += decision.Length;
            last = decision;
        }

        RoutingTelemetry.Decided(decision);
    }

    /// <summary>One of the matrices, for the device and the dtype that the branches' inputs must have.</summary>
    internal Parameter Matrix => attention.ResidualOutputWeights.First();

    internal SequenceMixer Select(Route route) => route == Route.Mamba ? mamba : attention;

    private ComputeComplexity AttentionComplexity =>
        new(options.AttentionConfig.WindowSize is { } window ? $"O({window} T)" : "O(T^2)", "O(log T)");

    /// <summary>
    /// In a share of the calls, runs the other branch too and compares: the mean cosine of the outputs over all tokens, padding, which is
    /// zero on both sides, left out.
    /// </summary>
    private double? Shadow(Route taken, Tensor x, MixerContext context, Tensor output)
    {
        // Every n-th call: floor(i * rate) grows by one in just the share of calls that is asked for.
        var call = Interlocked.Increment(ref newBatches);
        if (training || Math.Floor(call * options.ShadowRate) == Math.Floor((call - 1) * options.ShadowRate))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var other = Select(taken == Route.Mamba ? Route.Attention : Route.Mamba).forward(Rounded(x), context.WithState(null)).to_type(ScalarType.Float64);
        var own = output.detach().to_type(ScalarType.Float64);
        var norms = own.square().sum(dim: -1).sqrt() * other.square().sum(dim: -1).sqrt();
        var real = norms.gt(0);
        var agreement = ((own * other).sum(dim: -1) / norms.clamp_min(double.Epsilon)).masked_fill(real.logical_not(), 0).sum().ToDouble()
            / Math.Max(1, real.sum().ToDouble());
        RoutingTelemetry.Agreed(agreement);
        return agreement;
    }

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
