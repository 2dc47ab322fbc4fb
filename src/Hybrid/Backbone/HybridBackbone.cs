using Hybrid.Layers;
using Hybrid.Routing;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <summary>What a backbone returns.</summary>
public enum BackboneOutput
{
    /// <summary>Every position: [B, T, D].</summary>
    Sequence,

    /// <summary>The last real position of each row: [B, D].</summary>
    Last,
}

/// <summary>
/// A stack of residual blocks with a final norm, as in Jamba (Lieber et al., arXiv 2403.19887): any mixers, interleaved as a
/// <see cref="LayerPattern"/> says. Made by <see cref="BackboneBuilder"/>.
/// </summary>
public sealed class HybridBackbone : Module<Tensor, Tensor>
{
    private readonly BackboneOutput output;
    private readonly long? maxLength;

    [ComponentName(Name = "input_proj")]
    private readonly Linear? inputProjection;

    [ComponentName(Name = "position")]
    private readonly PositionEncoding? position;

    [ComponentName(Name = "input_norm")]
    private readonly Module<Tensor, Tensor>? inputNorm;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<ResidualBlock> layers;

    [ComponentName(Name = "state_bridge")]
    private readonly StateBridges? bridges;

    [ComponentName(Name = "norm_f")]
    private readonly Module<Tensor, Tensor> finalNorm;

    internal HybridBackbone(
        long width,
        long inputWidth,
        LayerPattern pattern,
        ResidualBlock[] blocks,
        BackboneOutput output,
        Module<Tensor, Tensor>? inputNorm,
        Module<Tensor, Tensor> finalNorm,
        PositionEncoding? position,
        long? maxLength,
        bool stateBridges)
        : base(nameof(HybridBackbone))
    {
        OutputSize = width;
        InputWidth = inputWidth;
        Pattern = pattern;
        this.output = output;
        this.position = position;
        this.maxLength = maxLength;
        inputProjection = inputWidth == width ? null : Linear(inputWidth, width);
        layers = new ModuleList<ResidualBlock>(blocks);
        bridges = stateBridges ? new StateBridges(width, pattern) : null;
        this.inputNorm = inputNorm;
        this.finalNorm = finalNorm;
        RegisterComponents();
    }

    /// <summary>Width of the input.</summary>
    public long InputWidth { get; }

    /// <summary>Width D of the output: the hidden size.</summary>
    public long OutputSize { get; }

    /// <summary>What each layer is.</summary>
    public LayerPattern Pattern { get; }

    /// <summary>The blocks, first layer first.</summary>
    public IReadOnlyList<ResidualBlock> Blocks => [.. layers];

    /// <summary>The bridge before each layer, first layer first; null where there is none.</summary>
    public IReadOnlyList<StateBridge?> Bridges => bridges?.OfLayers ?? new StateBridge?[layers.Count];

    /// <summary>Number of parameters, counted from the module.</summary>
    /// <returns>The number of scalar weights.</returns>
    public long CountParameters() => parameters().Sum(parameter => parameter.numel());

    /// <summary>
    /// The rule of thumb that earlier systems print for a Jamba-style stack, before any model is built; <see cref="CountParameters"/> is
    /// exact. With I = H expand, a = heads * head width and r = H / N rounded down: a Mamba layer has 2HI + 4I + 2IN + 2Ir + IH, an
    /// attention layer 4a^2 + 8H^2 weights; an input of another width adds its projection.
    /// </summary>
    /// <param name="embedWidth">Width of the input.</param>
    /// <param name="hiddenSize">Model width H.</param>
    /// <param name="layers">Number of layers.</param>
    /// <param name="attentionEvery">Attention at every so many layers; at least 1.</param>
    /// <param name="stateSize">State size N; at least 1.</param>
    /// <param name="expandFactor">Inner width over H.</param>
    /// <param name="heads">Attention heads.</param>
    /// <param name="headWidth">Width of a head.</param>
    /// <returns>The estimate.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="attentionEvery"/> or <paramref name="stateSize"/> is below 1.</exception>
    public static long EstimateParameterCount(
        long embedWidth, long hiddenSize = 256, long layers = 6, long attentionEvery = 3, long stateSize = 16, long expandFactor = 2, long heads = 4, long headWidth = 64)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(attentionEvery, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(stateSize, 1);
        var (inner, attentionWidth, rank) = (hiddenSize * expandFactor, heads * headWidth, hiddenSize / stateSize);
        var mamba = (2 * hiddenSize * inner) + (4 * inner) + (2 * inner * stateSize) + (2 * inner * rank) + (inner * hiddenSize);
        var attention = (4 * attentionWidth * attentionWidth) + (8 * hiddenSize * hiddenSize);
        var attentionLayers = layers / attentionEvery;
        return (embedWidth == hiddenSize ? 0 : embedWidth * hiddenSize) + (mamba * (layers - attentionLayers)) + (attention * attentionLayers);
    }

    /// <summary>The stack as a table: layer, mixer, shapes, parameters, and the bytes of its state for one sequence.</summary>
    /// <returns>Lines of text, a header first, a total last.</returns>
    public string Describe()
    {
        const string row = "{0,-6} {1,-18} {2,-26} {3,14} {4,14}";
        using var state = CreateState(1);
        var lines = new List<string> { string.Format(null, row, "layer", "mixer", "shape", "parameters", "state bytes") };
        for (var i = 0; i < layers.Count; i++)
        {
            var shape = $"[B, T, {OutputSize}]";
            lines.Add(string.Format(null, row, i, Pattern.Mixers[i], $"{shape} -> {shape}", $"{Count(layers[i]):N0}", $"{state.Parts[i].ByteSize:N0}"));
        }

        lines.Add(string.Format(null, row, "total", "", "", $"{CountParameters():N0}", $"{state.ByteSize:N0}"));
        return string.Join(Environment.NewLine, lines.Select(line => line.TrimEnd()));

        static long Count(Module module) => module.parameters().Sum(parameter => parameter.numel());
    }

    /// <summary>Creates the state of all layers for sequences that have seen no token yet.</summary>
    /// <param name="batchSize">Number of sequences B; at least 1.</param>
    /// <returns>The state: a part for each layer, then one for each bridge. The caller disposes it.</returns>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="batchSize"/> is below 1.</exception>
    public CompositeState CreateState(long batchSize) =>
        new(batchSize, layers.Select(layer => layer.CreateState(batchSize)).Concat(bridges?.CreateStates(batchSize) ?? []));

    /// <summary>Runs the stack without carrying state.</summary>
    /// <param name="input">[B, T, <see cref="InputWidth"/>].</param>
    /// <returns>[B, T, D], or [B, D] for <see cref="BackboneOutput.Last"/>.</returns>
    /// <exception cref="ArgumentException">The input's shape or dtype does not fit, or it is longer than the longest sequence.</exception>
    public override Tensor forward(Tensor input) => forward(input, MixerContext.None);

    /// <summary>Runs the stack.</summary>
    /// <param name="input">[B, T, <see cref="InputWidth"/>].</param>
    /// <param name="context">State (from <see cref="CreateState"/>), padding, packed rows.</param>
    /// <returns>[B, T, D], or [B, D] for <see cref="BackboneOutput.Last"/>.</returns>
    /// <exception cref="ArgumentException">The input, the state or the context does not fit, or a sequence would be longer than the longest.</exception>
    /// <exception cref="NotSupportedException">A layer cannot honour something in the context.</exception>
    public Tensor forward(Tensor input, MixerContext context) => forward(input, context, null);

    /// <summary>Runs the stack and keeps what stands between the layers.</summary>
    /// <param name="input">[B, T, <see cref="InputWidth"/>].</param>
    /// <param name="context">State, padding, packed rows.</param>
    /// <param name="streams">Receives the residual stream [B, T, D] after each layer, in the caller's dispose scope; null keeps none.</param>
    /// <returns>[B, T, D], or [B, D] for <see cref="BackboneOutput.Last"/>.</returns>
    internal Tensor forward(Tensor input, MixerContext context, List<Tensor>? streams)
    {
        if (input.shape is not [_, _, var last] || last != InputWidth)
        {
            throw new ArgumentException(
                $"HybridBackbone: the input must be [B, T, {InputWidth}]; got [{string.Join(", ", input.shape)}].", nameof(input));
        }

        using var scope = NewDisposeScope();
        var state = RequireState(context.State, input.size(0));
        RequireRoom(state, input.size(1), context.Lengths);
        var x = inputProjection?.call(input) ?? input;
        x = position?.Add(x, context) ?? x;
        context = context with { StackInput = x };
        x = inputNorm is null ? x : RmsNorm.Step(inputNorm, x, context.Buffers);
        var before = x;
        for (var i = 0; i < layers.Count; i++)
        {
            var entering = bridges?.Enter(i, x, before, context, state?.Parts.Skip(layers.Count)) ?? x;
            (before, x) = (entering, layers[i].forward(entering, context.WithState(state?.Parts[i])));
            streams?.Add(x);
        }

        streams?.ForEach(stream => stream.MoveToOuterDisposeScope());
        state?.Advance(input.size(1), context.Lengths);
        x = RmsNorm.Step(finalNorm, x, context.Buffers);
        return (output == BackboneOutput.Last ? LastPositions(x, context) : x).MoveToOuterDisposeScope();
    }

    private void RequireRoom(CompositeState? state, long time, IReadOnlyList<long>? lengths)
    {
        var total = state?.PositionAfter(time, lengths) ?? time;
        if (total > maxLength)
        {
            throw new ArgumentException($"HybridBackbone: the sequence would have {total} tokens; seq_len is {maxLength}.");
        }

        state?.EnsureRoom(time, lengths);
    }

    private CompositeState? RequireState(MixerState? state, long batchSize)
    {
        switch (state)
        {
            case null:
                return null;
            case CompositeState composite when composite.Parts.Count == layers.Count + Bridges.Count(bridge => bridge is not null) && composite.BatchSize == batchSize:
                return composite.RequireWhole(nameof(HybridBackbone));
            default:
                throw new ArgumentException(
                    $"HybridBackbone: the state must be made by CreateState({batchSize}) of this backbone; got a {state.GetType().Name} of {state.BatchSize} sequences.",
                    nameof(state));
        }
    }

    private static Tensor LastPositions(Tensor x, MixerContext context)
    {
        if (context.Lengths is not { } lengths || context.PaddingSide == PaddingSide.Left)
        {
            return x.select(1, x.size(1) - 1);
        }

        var index = tensor(lengths.Select(length => length - 1).ToArray(), device: x.device).view(-1, 1, 1);
        return x.gather(1, index.expand(x.size(0), 1, x.size(2))).squeeze(1);
    }
}
