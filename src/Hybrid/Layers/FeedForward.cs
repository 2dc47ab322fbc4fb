using Hybrid.Kernels;
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

    /// <summary>Plain: <c>down(relu(up x)^2)</c> (Primer, arXiv 2109.08668; Nemotron-H), no biases.</summary>
    SquaredRelu,

    /// <summary>Gated: <c>down(GELU(gate x) * up x)</c> with the GELU in its tanh form (Shazeer, arXiv 2002.05202; RecurrentGemma), with biases.</summary>
    GegluTanh,
}

/// <summary>Options of <see cref="FeedForward"/>.</summary>
public sealed record FeedForwardOptions
{
    /// <summary>Form. Default: SwiGLU.</summary>
    public FeedForwardKind Kind { get; init; } = FeedForwardKind.Swiglu;

    /// <summary>
    /// Inner width, at least 1; null means 4 D for the plain forms and 8/3 D rounded up to a multiple of 8 for the gated ones, which have
    /// a third matrix.
    /// </summary>
    public long? IntermediateSize { get; init; }

    /// <summary>Adds biases to all projections; null, the default, means what the form says.</summary>
    public bool? UseBias { get; init; }

    /// <summary>Factor of what goes into the activation of a gated form; positive. Default 1.</summary>
    public double GateMultiplier { get; init; } = 1;

    /// <summary>Factor of the output; positive. Default 1.</summary>
    public double OutputMultiplier { get; init; } = 1;

    /// <summary>True where the form has a gate matrix.</summary>
    internal bool IsGated => Kind is FeedForwardKind.Swiglu or FeedForwardKind.GegluTanh;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(FeedForwardOptions), nameof(IntermediateSize), IntermediateSize ?? 1, 1);
        OptionRange.Positive(nameof(FeedForwardOptions), nameof(GateMultiplier), GateMultiplier);
        OptionRange.Positive(nameof(FeedForwardOptions), nameof(OutputMultiplier), OutputMultiplier);
        if (GateMultiplier != 1 && !IsGated)
        {
            throw new ArgumentException(
                $"FeedForwardOptions: GateMultiplier must be 1 for {Kind}, which has no gate; got {GateMultiplier}.", nameof(GateMultiplier));
        }
    }

    /// <summary>The inner width for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="IntermediateSize"/> or its default.</returns>
    public long ResolveIntermediateSize(long width) =>
        IntermediateSize ?? (IsGated ? ((8 * width / 3) + 7) / 8 * 8 : 4 * width);
}

/// <summary>The position-wise layer of a block: [..., D] to [..., D].</summary>
public sealed class FeedForward : nn.Module<Tensor, Tensor>
{
    private readonly FeedForwardOptions options;

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
        this.options = options ??= new FeedForwardOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        options.Validate();
        var inner = options.ResolveIntermediateSize(width);
        var biases = options.UseBias ?? options.Kind is FeedForwardKind.Gelu or FeedForwardKind.GegluTanh;
        gate = options.IsGated ? ModuleParameter.Linear(width, inner, hasBias: biases) : null;
        up = ModuleParameter.Linear(width, inner, hasBias: biases);
        down = ModuleParameter.Linear(inner, width, hasBias: biases);
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
        var inner = LinearStep.Apply(up, input);
        inner = options.Kind switch
        {
            FeedForwardKind.Gelu => inner.gelu(),
            FeedForwardKind.SquaredRelu => inner.relu().square(),
            FeedForwardKind.GegluTanh => Gate(input).gelu(GELU.Approximate.tanh) * inner,
            _ => Gate(input).silu() * inner,
        };
        var output = LinearStep.Apply(down, inner);
        return (options.OutputMultiplier == 1 ? output : output * options.OutputMultiplier).MoveToOuterDisposeScope();
    }

    /// <summary>The same in a step, in place on the buffers, to which the result belongs; <paramref name="residual"/> is added, if there is one.</summary>
    internal Tensor Step(Tensor input, StepBuffers buffers, Tensor? residual)
    {
        var inner = LinearStep.Apply(up, input, buffers);
        if (gate is not null)
        {
            var factor = LinearStep.Apply(gate, input, buffers);
            if (options.GateMultiplier != 1)
            {
                factor.mul_(options.GateMultiplier);
            }

            inner.mul_(options.Kind == FeedForwardKind.GegluTanh ? factor.gelu_(GELU.Approximate.tanh) : factor.silu_());
        }
        else if (options.Kind == FeedForwardKind.Gelu)
        {
            inner.gelu_();
        }
        else
        {
            inner.relu_().mul_(inner);
        }

        if (options.OutputMultiplier == 1)
        {
            return LinearStep.Apply(down, inner, buffers, residual);
        }

        var output = LinearStep.Apply(down, inner, buffers).mul_(options.OutputMultiplier);
        return residual is null ? output : output.add_(residual);
    }

    private Tensor Gate(Tensor input) =>
        options.GateMultiplier == 1 ? LinearStep.Apply(gate!, input) : LinearStep.Apply(gate!, input) * options.GateMultiplier;
}
