using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>The form of a feed-forward layer.</summary>
public enum FeedForwardKind
{
    /// <summary>Gated: <c>down(SiLU(gate x) * up x)</c> (Shazeer, arXiv 2002.05202), no biases.</summary>
    Swiglu,

    /// <summary>Plain: <c>down(GELU(up x))</c>, with biases.</summary>
    Gelu,
}

/// <summary>Options of <see cref="FeedForward"/>.</summary>
public sealed record FeedForwardOptions
{
    /// <summary>Form. Default: SwiGLU.</summary>
    public FeedForwardKind Kind { get; init; } = FeedForwardKind.Swiglu;

    /// <summary>
    /// Inner width, at least 1; null means 4 D for the plain form and 8/3 D rounded up to a multiple of 8 for the gated one, which has
    /// a third matrix.
    /// </summary>
    public long? IntermediateSize { get; init; }

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate() => OptionRange.AtLeast(nameof(FeedForwardOptions), nameof(IntermediateSize), IntermediateSize ?? 1, 1);

    /// <summary>The inner width for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="IntermediateSize"/> or its default.</returns>
    public long ResolveIntermediateSize(long width) =>
        IntermediateSize ?? (Kind == FeedForwardKind.Gelu ? 4 * width : ((8 * width / 3) + 7) / 8 * 8);
}

/// <summary>The position-wise layer of a block: [..., D] to [..., D].</summary>
public sealed class FeedForward : nn.Module<Tensor, Tensor>
{
    [ComponentName(Name = "gate_proj")]
    private readonly Linear? gate;

    [ComponentName(Name = "up_proj")]
    private readonly Linear up;

    [ComponentName(Name = "down_proj")]
    private readonly Linear down;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Form and inner width; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public FeedForward(long width, FeedForwardOptions? options = null)
        : base(nameof(FeedForward))
    {
        options ??= new FeedForwardOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        options.Validate();
        var inner = options.ResolveIntermediateSize(width);
        var plain = options.Kind == FeedForwardKind.Gelu;
        gate = plain ? null : nn.Linear(width, inner, hasBias: false);
        up = nn.Linear(width, inner, hasBias: plain);
        down = nn.Linear(inner, width, hasBias: plain);
        RegisterComponents();
    }

    /// <summary>The weight that writes into the residual stream.</summary>
    internal Parameter ResidualOutputWeight => down.weight;

    /// <summary>Applies the layer to every position.</summary>
    /// <param name="input">[..., D].</param>
    /// <returns>[..., D].</returns>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        var inner = gate is null ? up.call(input).gelu() : gate.call(input).silu() * up.call(input);
        return down.call(inner).MoveToOuterDisposeScope();
    }
}
