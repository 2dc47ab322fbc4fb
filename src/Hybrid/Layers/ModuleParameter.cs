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
            return parameter;
        }
    }
}
