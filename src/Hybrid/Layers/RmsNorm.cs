using Hybrid.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>
/// Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467): <c>x / sqrt(mean(x^2) + eps) * weight</c> over the last
/// dimension. Computed in float32, cast back, then scaled, as the reference models do.
/// </summary>
public sealed class RmsNorm : nn.Module<Tensor, Tensor>
{
    [ComponentName(Name = "weight")]
    private readonly Parameter weight;

    private readonly long width;
    private readonly double epsilon;

    /// <param name="width">Size of the last dimension.</param>
    /// <param name="epsilon">Added to the mean square; positive. Default 1e-5.</param>
    public RmsNorm(long width, double epsilon = 1e-5)
        : base(nameof(RmsNorm))
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(epsilon);
        this.width = width;
        this.epsilon = epsilon;
        weight = ModuleParameter.Own(ones(width));
        RegisterComponents();
    }

    /// <summary>Normalises.</summary>
    /// <param name="input">[..., width].</param>
    /// <returns>The same shape and dtype.</returns>
    public override Tensor forward(Tensor input)
    {
        if (input.shape is not [.., var last] || last != width)
        {
            throw new ArgumentException($"RmsNorm: the input must be [..., {width}]; got [{string.Join(", ", input.shape)}].", nameof(input));
        }

        if (RootMeanSquare.CanRun(input, weight))
        {
            return RootMeanSquare.Apply(input, weight, epsilon);
        }

        using var scope = NewDisposeScope();
        var dtype = input.dtype;
        var wide = dtype == ScalarType.Float64 ? input : input.to_type(ScalarType.Float32);
        var inverse = (wide.square().mean([-1], keepdim: true) + epsilon).rsqrt();
        return ((wide * inverse).to_type(dtype) * weight).MoveToOuterDisposeScope();
    }
}
