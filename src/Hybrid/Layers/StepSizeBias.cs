using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>The initial bias of step sizes that pass a softplus.</summary>
internal static class StepSizeBias
{
    /// <summary>
    /// The inverse softplus of step sizes that are log-uniform between two bounds, so that some channels remember long and others short
    /// (Gu and Dao, arXiv 2312.00752, section 3.6).
    /// </summary>
    /// <param name="count">How many.</param>
    /// <param name="min">Smallest step.</param>
    /// <param name="max">Largest step.</param>
    /// <param name="floor">No step is below this.</param>
    /// <returns>[count], float32.</returns>
    public static Tensor LogUniform(long count, double min, double max, double floor = 0)
    {
        using var scope = NewDisposeScope();
        var (low, high) = (Math.Log(min), Math.Log(max));
        var step = ((rand(count) * (high - low)) + low).exp().clamp_min(floor);
        return (step + step.neg().expm1().neg().log()).MoveToOuterDisposeScope();
    }
}
