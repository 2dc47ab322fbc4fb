using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Training;

/// <summary>Options of a <see cref="LossScaler"/>; the defaults are those of PyTorch's GradScaler.</summary>
public sealed record LossScalerOptions
{
    /// <summary>First scale; positive. Default 65536.</summary>
    public double InitialScale { get; init; } = 65536;

    /// <summary>Factor of the scale after <see cref="GrowthInterval"/> steps without overflow; above 1. Default 2.</summary>
    public double GrowthFactor { get; init; } = 2;

    /// <summary>Factor of the scale after an overflow; above 0 and below 1. Default 0.5.</summary>
    public double BackoffFactor { get; init; } = 0.5;

    /// <summary>Steps without overflow before the scale grows; at least 1. Default 2000.</summary>
    public int GrowthInterval { get; init; } = 2000;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.Positive(nameof(LossScalerOptions), nameof(InitialScale), InitialScale);
        OptionRange.Positive(nameof(LossScalerOptions), nameof(GrowthFactor), GrowthFactor - 1);
        OptionRange.Positive(nameof(LossScalerOptions), nameof(BackoffFactor), BackoffFactor);
        OptionRange.DropRate(nameof(LossScalerOptions), nameof(BackoffFactor), BackoffFactor);
        OptionRange.AtLeast(nameof(LossScalerOptions), nameof(GrowthInterval), GrowthInterval, 1);
    }
}

/// <summary>
/// Dynamic loss scaling for float16, whose smallest number is 6e-8 and largest 65504 (Micikevicius et al., arXiv 1710.03740, section 3.2):
/// gradients are those of the loss times a scale, so that small ones do not vanish; a step whose gradients overflow is left out and the
/// scale lowered; after many steps without one it is raised. bfloat16 has the range of float32 and needs none.
/// </summary>
public sealed class LossScaler
{
    private readonly LossScalerOptions options;

    /// <param name="options">First scale and how it moves; null means the defaults.</param>
    /// <exception cref="ArgumentOutOfRangeException">An option is out of its range.</exception>
    public LossScaler(LossScalerOptions? options = null)
    {
        this.options = options ?? new LossScalerOptions();
        this.options.Validate();
        Scale = this.options.InitialScale;
    }

    /// <summary>What the loss is multiplied by now.</summary>
    public double Scale { get; private set; }

    /// <summary>Steps without overflow since the scale last changed.</summary>
    public int GrowthSteps { get; private set; }

    /// <summary>Steps that were left out so far.</summary>
    public long SkippedSteps { get; private set; }

    /// <summary>Multiplies a loss by the scale.</summary>
    /// <param name="loss">A float32 scalar; in float16 the product would overflow.</param>
    /// <returns>The scaled loss, to call backward on.</returns>
    public Tensor Apply(Tensor loss) =>
        loss.dtype == ScalarType.Float16
            ? throw new ArgumentException("LossScaler: the loss must be Float32, as its product with the scale has no room in Float16; got Float16.", nameof(loss))
            : loss * Scale;

    /// <summary>True where every gradient is finite.</summary>
    /// <param name="parameters">What the optimizer is about to update; one without a gradient does not count.</param>
    /// <returns>Whether the step may be taken.</returns>
    public static bool AreFinite(IEnumerable<Parameter> parameters)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();

        // One answer is fetched from the device, not one for each parameter.
        var finite = parameters.Select(parameter => parameter.grad).OfType<Tensor>().Select(gradient => gradient.isfinite().all()).ToArray();
        return finite.Length == 0 || stack(finite).all().ToBoolean();
    }

    /// <summary>Adjusts the scale after a step.</summary>
    /// <param name="finite">Whether its gradients were finite and it was taken.</param>
    public void Update(bool finite)
    {
        if (!finite)
        {
            Scale *= options.BackoffFactor;
            GrowthSteps = 0;
            SkippedSteps++;
        }
        else if (++GrowthSteps == options.GrowthInterval)
        {
            Scale *= options.GrowthFactor;
            GrowthSteps = 0;
        }
    }

    /// <summary>Goes on from a saved scale.</summary>
    /// <param name="scale">See <see cref="Scale"/>; positive.</param>
    /// <param name="growthSteps">See <see cref="GrowthSteps"/>; 0 or more.</param>
    /// <param name="skippedSteps">See <see cref="SkippedSteps"/>; 0 or more.</param>
    public void Restore(double scale, int growthSteps, long skippedSteps)
    {
        OptionRange.Positive(nameof(LossScaler), nameof(scale), scale);
        OptionRange.AtLeast(nameof(LossScaler), nameof(growthSteps), growthSteps, 0);
        OptionRange.AtLeast(nameof(LossScaler), nameof(skippedSteps), skippedSteps, 0);
        (Scale, GrowthSteps, SkippedSteps) = (scale, growthSteps, skippedSteps);
    }
}
