using Hybrid.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>
/// Root-mean-square normalisation with a gate z, as in Mamba-2 (Dao and Gu, arXiv 2405.21060) and the gated delta net:
/// <c>RMS(x SiLU(z)) * weight</c>, or with the norm before the gate <c>RMS(x) * weight * SiLU(z)</c>, where
/// <c>RMS(x) = x / sqrt(mean(x^2) + eps)</c> over the last dimension or over each group of neighbouring channels. Computed in float32.
/// </summary>
public sealed class GatedRmsNorm : nn.Module<Tensor, Tensor, Tensor>
{
    [ComponentName(Name = "weight")]
    private readonly Parameter weight;

    private readonly long width;
    private readonly NormForm form;

    /// <param name="width">Size of the last dimension.</param>
    /// <param name="epsilon">Added to the mean square; positive. Default 1e-5.</param>
    /// <param name="normBeforeGate">True to normalise first and gate then; false to normalise the gated input. Default false.</param>
    /// <param name="groups">Groups of width / groups channels, each normalised alone; a divisor of the width. Default 1.</param>
    /// <exception cref="ArgumentException">A size is out of its range.</exception>
    public GatedRmsNorm(long width, double epsilon = 1e-5, bool normBeforeGate = false, long groups = 1)
        : base(nameof(GatedRmsNorm))
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(groups, 1);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(epsilon);
        if (width % groups != 0)
        {
            throw new ArgumentException($"GatedRmsNorm: groups must divide the width, {width}; got {groups}.", nameof(groups));
        }

        this.width = width;
        form = new NormForm(epsilon, normBeforeGate ? GateOrder.AfterNorm : GateOrder.BeforeNorm, groups);
        weight = ModuleParameter.Own(ones(width));
        RegisterComponents();
    }

    /// <summary>False keeps to plain tensor operations. Default true.</summary>
    public bool UseFusedKernels { get; init; } = true;

    /// <summary>Weights w [width].</summary>
    internal Tensor Weight => weight;

    /// <summary>Groups of channels that are normalised apart.</summary>
    internal long Groups => form.Groups;

    /// <summary>True where the norm comes before the gate.</summary>
    internal bool NormBeforeGate => form.Gate == GateOrder.AfterNorm;

    /// <summary>Added to the mean square.</summary>
    internal double Epsilon => form.Epsilon;

    /// <summary>Normalises and gates.</summary>
    /// <param name="input">x: [..., width].</param>
    /// <param name="gate">z, before its SiLU: the shape of <paramref name="input"/>.</param>
    /// <returns>The shape and dtype of <paramref name="input"/>.</returns>
    /// <exception cref="ArgumentException">A shape does not fit.</exception>
    public override Tensor forward(Tensor input, Tensor gate)
    {
        var shape = input.shape;
        if (shape is not [.., var last] || last != width)
        {
            throw new ArgumentException($"GatedRmsNorm: the input must be [..., {width}]; got [{string.Join(", ", shape)}].", nameof(input));
        }

        if (gate.shape is var gateShape && !gateShape.AsSpan().SequenceEqual(shape))
        {
            throw new ArgumentException(
                $"GatedRmsNorm: the gate must be [{string.Join(", ", shape)}]; got [{string.Join(", ", gateShape)}].", nameof(gate));
        }

        if (UseFusedKernels && CudaNorm.OnCuda.For(("x", input), ("the gate", gate), ("weight", weight)) is { } norm)
        {
            return CudaNorm.Apply(norm, input, gate, weight, form);
        }

        using var scope = NewDisposeScope();
        var dtype = input.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var (x, z, scale) = (input.to_type(dtype), gate.to_type(dtype), weight.to_type(dtype));
        var y = UseFusedKernels && RootMeanSquare.CanRun(x, scale, z) ? RootMeanSquare.Apply(x, scale, form, z) : RootMeanSquare.Reference(x, scale, z, form);
        return y.to_type(input.dtype).MoveToOuterDisposeScope();
    }
}
