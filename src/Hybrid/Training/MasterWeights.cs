using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Training;

/// <summary>
/// Float32 copies of a model's half-precision parameters, which the optimizer updates in their place (Micikevicius et al.,
/// arXiv 1710.03740, section 3.1). bfloat16 has 8 significant bits: an update below 1/512 of a weight would be rounded away, step after step.
/// </summary>
/// <remarks>
/// A step is: backward; <see cref="TakeGradients"/>; clip and step over <see cref="Of"/> of each parameter; <see cref="Publish"/>.
/// The copies start from the rounded weights. A parameter takes 4 bytes for its copy, 2 for itself and 2 for its gradient until it is taken.
/// </remarks>
public sealed class MasterWeights : IDisposable
{
    private readonly List<Parameter> own = [];
    private readonly List<(Parameter Weight, Parameter Master)> pairs = [];
    private readonly Dictionary<IntPtr, Parameter> masters = [];

    /// <param name="model">The model, converted already, on its device; it keeps its parameters.</param>
    public MasterWeights(nn.Module model)
    {
        foreach (var parameter in model.parameters())
        {
            if (!MixedPrecision.IsHalf(parameter.dtype))
            {
                own.Add(parameter);
            }
            else if (!masters.ContainsKey(parameter.Handle))
            {
                var master = MixedPrecision.Converted(parameter, ScalarType.Float32);
                pairs.Add((parameter, master));
                masters.Add(parameter.Handle, master);
            }
        }
    }

    /// <summary>Number of parameters that have a copy.</summary>
    public int Count => pairs.Count;

    /// <summary>What an optimizer updates for a parameter of the model.</summary>
    /// <param name="parameter">The parameter.</param>
    /// <returns>Its copy; itself where it is float32.</returns>
    public Parameter Of(Parameter parameter) => masters.GetValueOrDefault(parameter.Handle, parameter);

    /// <summary>
    /// Moves the gradients of the model to the copies, as float32, divided by a scale; the parameters without a copy keep theirs, divided too.
    /// A copy whose parameter got none keeps what it has, which after zero_grad is zero or none.
    /// </summary>
    /// <param name="scale">What the loss was multiplied by; positive. Default 1.</param>
    public void TakeGradients(double scale = 1)
    {
        OptionRange.Positive(nameof(MasterWeights), nameof(scale), scale);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var (weight, master) in pairs)
        {
            if (weight.grad is { } gradient)
            {
                var wide = gradient.to_type(ScalarType.Float32);
                master.grad = scale == 1 ? wide : wide / scale;
                weight.grad = null;
            }
        }

        foreach (var parameter in own)
        {
            if (scale != 1)
            {
                parameter.grad?.div_(scale);
            }
        }
    }

    /// <summary>Rounds the copies into the model.</summary>
    public void Publish()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        foreach (var (weight, master) in pairs)
        {
            weight.copy_(master);
        }
    }

    /// <summary>Frees the copies.</summary>
    public void Dispose()
    {
        foreach (var (_, master) in pairs)
        {
            master.Dispose();
        }

        pairs.Clear();
        masters.Clear();
        own.Clear();
    }

    /// <summary>The copies of a model; null where it has no half-precision parameter and needs none.</summary>
    internal static MasterWeights? For(nn.Module model) =>
        model.parameters().Any(parameter => MixedPrecision.IsHalf(parameter.dtype)) ? new MasterWeights(model) : null;
}
