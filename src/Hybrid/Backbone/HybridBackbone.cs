using Hybrid.Layers;
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

    [ComponentName(Name = "input_proj")]
    private readonly Linear? inputProjection;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<ResidualBlock> layers;

    [ComponentName(Name = "norm_f")]
    private readonly RmsNorm finalNorm;

    internal HybridBackbone(long width, long inputWidth, LayerPattern pattern, ResidualBlock[] blocks, BackboneOutput output, double normEps)
        : base(nameof(HybridBackbone))
    {
        OutputSize = width;
        InputWidth = inputWidth;
        Pattern = pattern;
        this.output = output;
        inputProjection = inputWidth == width ? null : Linear(inputWidth, width);
        layers = new ModuleList<ResidualBlock>(blocks);
        finalNorm = new RmsNorm(width, normEps);
        RegisterComponents();
    }

    /// <summary>Width of the input.</summary>
    public long InputWidth { get; }

    /// <summary>Width D of the output.</summary>
    public long OutputSize { get; }

    /// <summary>Which mixer each layer has.</summary>
    public LayerPattern Pattern { get; }

    /// <summary>The blocks, first layer first.</summary>
    public IReadOnlyList<ResidualBlock> Blocks => [.. layers];

    /// <summary>Number of parameters, counted from the module.</summary>
    /// <returns>The number of scalar weights.</returns>
    public long CountParameters() => parameters().Sum(parameter => parameter.numel());

    /// <summary>Creates the state of all layers for sequences that have seen no token yet.</summary>
    /// <param name="batchSize">Number of sequences B; at least 1.</param>
    /// <returns>The state; the caller disposes it.</returns>
    public CompositeState CreateState(long batchSize) => new(batchSize, layers.Select(layer => layer.CreateState(batchSize)));

    /// <summary>Runs the stack without carrying state.</summary>
    /// <param name="input">[B, T, <see cref="InputWidth"/>].</param>
    /// <returns>[B, T, D], or [B, D] for <see cref="BackboneOutput.Last"/>.</returns>
    public override Tensor forward(Tensor input) => forward(input, MixerContext.None);

    /// <summary>Runs the stack.</summary>
    /// <param name="input">[B, T, <see cref="InputWidth"/>].</param>
    /// <param name="context">State (from <see cref="CreateState"/>), padding, packed rows.</param>
    /// <returns>[B, T, D], or [B, D] for <see cref="BackboneOutput.Last"/>.</returns>
    public Tensor forward(Tensor input, MixerContext context)
    {
        if (input.shape is not [_, _, var last] || last != InputWidth)
        {
            throw new ArgumentException(
                $"HybridBackbone: the input must be [B, T, {InputWidth}]; got [{string.Join(", ", input.shape)}].", nameof(input));
        }

        using var scope = NewDisposeScope();
        var state = RequireState(context.State, input.size(0));
        state?.EnsureRoom(input.size(1), context.Lengths);
        var x = inputProjection?.call(input) ?? input;
        for (var i = 0; i < layers.Count; i++)
        {
            x = layers[i].forward(x, context.WithState(state?.Parts[i]));
        }

        state?.Advance(input.size(1), context.Lengths);
        x = finalNorm.call(x);
        return (output == BackboneOutput.Last ? LastPositions(x, context) : x).MoveToOuterDisposeScope();
    }

    private CompositeState? RequireState(MixerState? state, long batchSize)
    {
        switch (state)
        {
            case null:
                return null;
            case CompositeState composite when composite.Parts.Count == layers.Count && composite.BatchSize == batchSize:
                return composite;
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
