using Hybrid.Kernels;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>What a norm multiplies its result by.</summary>
public enum NormScale
{
    /// <summary>A trained weight a channel, 1 at first.</summary>
    Weight,

    /// <summary>1 + a trained weight a channel, 0 at first, so that weight decay pulls the factor towards 1 (Gemma, Qwen3-Next).</summary>
    OnePlusWeight,

    /// <summary>Nothing; the norm has no parameters (the inner norms of Falcon Mamba).</summary>
    None,
}

/// <summary>
/// Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467): <c>x / sqrt(mean(x^2) + eps) * weight</c> over the last
/// dimension. Computed in float32, cast back, then scaled, as the reference models do; with a factor of 1 + weight, or the
/// float32 weight of mixed precision, scaled before the cast.
/// </summary>
public sealed class RmsNorm : nn.Module<Tensor, Tensor>
{
    [ComponentName(Name = "weight")]
    private readonly Parameter? weight;

    private readonly long width;
    private readonly NormForm form;
    private readonly NormScale scale;

    /// <param name="width">Size of the last dimension.</param>
    /// <param name="epsilon">Added to the mean square; positive. Default 1e-5.</param>
    /// <param name="scale">What multiplies the result. Default: a weight a channel.</param>
    public RmsNorm(long width, double epsilon = 1e-5, NormScale scale = NormScale.Weight)
        : base(nameof(RmsNorm))
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(epsilon);
        this.width = width;
        form = new NormForm(epsilon);
        this.scale = scale;
        weight = scale switch
        {
            NormScale.Weight => ModuleParameter.Own(ones(width)),
            NormScale.OnePlusWeight => ModuleParameter.Own(zeros(width)),
            NormScale.None => null,
            _ => throw new ArgumentOutOfRangeException(nameof(scale), scale, $"RmsNorm: unknown scale {scale}."),
        };
        RegisterComponents();
    }

    /// <summary>False keeps to plain tensor operations. Default true.</summary>
    public bool UseFusedKernels { get; init; } = true;

    /// <summary>The trained weight [width], or null.</summary>
    internal Parameter? Weight => weight;

    /// <summary>Normalises.</summary>
    /// <param name="input">[..., width].</param>
    /// <returns>The same shape and dtype.</returns>
    public override Tensor forward(Tensor input)
    {
        if (input.Dimensions == 0 || input.size(-1) != width)
        {
            throw new ArgumentException($"RmsNorm: the input must be [..., {width}]; got [{string.Join(", ", input.shape)}].", nameof(input));
        }

        var dtype = input.dtype;
        if (UseFusedKernels && CudaNorm.OnCuda.For(("x", input), ("weight", weight)) is { } norm)
        {
            var rounded = scale == NormScale.Weight && weight!.dtype == dtype;
            return CudaNorm.Apply(norm, input, null, weight, form with { RoundNormal = rounded, WeightShift = scale == NormScale.OnePlusWeight ? 1 : 0 });
        }

        if (UseFusedKernels && scale == NormScale.Weight && dtype == ScalarType.Float32 && RootMeanSquare.CanRun(input, weight))
        {
            return RootMeanSquare.Apply(input, weight, form);
        }

        using var scope = NewDisposeScope();
        var wide = dtype is ScalarType.Float64 or ScalarType.Float32 ? input : input.to_type(ScalarType.Float32);

        // What multiplies before the cast: a factor of 1 + weight, and a weight in the precision of the arithmetic.
        var factor = scale switch
        {
            NormScale.OnePlusWeight => weight!.to_type(wide.dtype) + 1,
            NormScale.Weight when weight!.dtype == wide.dtype => weight,
            _ => null,
        };
        var normal = UseFusedKernels && RootMeanSquare.CanRun(wide, factor)
            ? RootMeanSquare.Apply(wide, factor, form)
            : RootMeanSquare.Reference(wide, factor, null, form);
        normal = wide.dtype == dtype ? normal : normal.to_type(dtype);
        return (scale == NormScale.Weight && factor is null ? normal * weight! : normal).MoveToOuterDisposeScope();
    }

    /// <summary>Applies a norm of the stream in a step: into the buffers, where there are some and the norm is one that writes into them.</summary>
    internal static Tensor Step(nn.Module<Tensor, Tensor> norm, Tensor x, StepBuffers? buffers) =>
        buffers is not null && norm is RmsNorm { UseFusedKernels: true, scale: NormScale.Weight } plain && plain.Step(x, buffers) is { } y ? y : norm.call(x);

    private Tensor? Step(Tensor x, StepBuffers buffers)
    {
        if (CudaRuntime.Holds(x))
        {
            // A copy of the weight in float32 would be made anew each time.
            return weight!.dtype == ScalarType.Float32 && x.is_contiguous() && CudaNorm.OnCuda.For(("x", x), ("weight", weight)) is { } norm
                ? norm.Forward(new NormTensors(x, null, weight), form, keep: false, buffers.TakeLike(x)).Y
                : null;
        }

        return x.dtype == ScalarType.Float32 && RootMeanSquare.CanRun(x, weight) ? RootMeanSquare.Apply(x, weight, form, buffers: buffers) : null;
    }
}
