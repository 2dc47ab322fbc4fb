using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>
/// While one is in force, the modules made on this thread are to be filled from files: their large parameters have no initial values, are made
/// in the type and place that they stay in, and may not come to more numbers than the files hold, whatever sizes a configuration asks for.
/// </summary>
internal sealed class WeightAllowance : IDisposable
{
    // Sizes that are a little too large are told better by the tensors that they concern, once the model is there.
    private const long Slack = 1 << 20;

    [ThreadStatic]
    private static WeightAllowance? current;

    private readonly WeightAllowance? outer = current;
    private readonly long held;
    private readonly ScalarType type;
    private readonly Device device;
    private readonly List<Parameter> made = [];
    private double taken;

    /// <param name="held">Numbers that the files hold.</param>
    /// <param name="type">Type of the parameters.</param>
    /// <param name="device">Where they are made.</param>
    public WeightAllowance(long held, ScalarType type, Device device)
    {
        (this.held, this.type, this.device) = (held, type, device);
        current = this;
    }

    /// <summary>The one in force; null where parameters begin with initial values.</summary>
    public static WeightAllowance? Current => current;

    /// <summary>Makes a tensor without values.</summary>
    /// <param name="shape">Its shape.</param>
    /// <returns>The tensor, in the current dispose scope.</returns>
    /// <exception cref="ArgumentException">All together are larger than the files.</exception>
    public Tensor Take(params long[] shape)
    {
        taken += shape.Aggregate(1.0, (product, size) => product * size);
        return taken <= held + (held / 8) + Slack
            ? empty(shape, dtype: type, device: device)
            : throw new ArgumentException($"with a parameter [{string.Join(", ", shape)}] there would be {taken:g3} weights; the files hold {held}", nameof(shape));
    }

    /// <summary>Remembers a parameter of a module that is being made.</summary>
    public void Watch(Parameter parameter) => made.Add(parameter);

    /// <summary>Frees the parameters of modules that could not be made.</summary>
    public void Abandon() => made.ForEach(parameter => parameter.Dispose());

    /// <summary>Ends it.</summary>
    public void Dispose() => current = outer;
}
