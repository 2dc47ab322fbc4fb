using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>Makes the parameters of modules.</summary>
internal static class ModuleParameter
{
    /// <summary>
    /// A parameter that belongs to its module alone. One made inside a dispose scope would be freed with the scope and silently vanish
    /// from parameters() and state_dict().
    /// </summary>
    /// <param name="data">Initial value, taken over.</param>
    /// <returns>The parameter.</returns>
    public static Parameter Own(Tensor data)
    {
        using (data)
        {
            var parameter = new Parameter(data.detach());
            parameter.DetachFromDisposeScope();
            WeightAllowance.Current?.Watch(parameter);
            return parameter;
        }
    }

    /// <summary>A large parameter, whose initial values are not computed where a <see cref="WeightAllowance"/> says that they are to be loaded.</summary>
    /// <param name="initial">Makes the initial value.</param>
    /// <param name="shape">Its shape.</param>
    /// <returns>The parameter.</returns>
    /// <exception cref="ArgumentException">It is larger than the allowance.</exception>
    public static Parameter Make(Func<Tensor> initial, params long[] shape) =>
        Own(WeightAllowance.Current is { } allowance ? allowance.Take(shape) : initial());

    /// <summary>A linear layer, whose initial values are not computed where a <see cref="WeightAllowance"/> says that they are to be loaded.</summary>
    /// <param name="inputs">Inputs.</param>
    /// <param name="outputs">Outputs.</param>
    /// <param name="hasBias">Adds a bias.</param>
    /// <returns>The layer.</returns>
    /// <exception cref="ArgumentException">It is larger than the allowance.</exception>
    public static Linear Linear(long inputs, long outputs, bool hasBias = true) => WeightAllowance.Current is { } allowance
        ? nn.Linear(Own(allowance.Take(outputs, inputs)), hasBias ? Own(allowance.Take(outputs)) : null)
        : nn.Linear(inputs, outputs, hasBias);
}
