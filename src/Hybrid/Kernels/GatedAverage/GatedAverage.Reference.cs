using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class GatedAverage
{
    /// <summary>The average as a <see cref="LinearRecurrence"/> of plain tensor operations, on any device, differentiable by autograd.</summary>
    internal static (Tensor Y, Tensor FinalState) Reference(
        Tensor valuesAndGates, Tensor decay, Tensor? logits, Tensor? initialState, Tensor? mask, Tensor? restart)
    {
        var dtype = valuesAndGates.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var halves = valuesAndGates.to_type(dtype).chunk(2, -1);                         // [B, T, E] each: v, g
        var constant = decay.to_type(dtype);
        var logit = logits is null ? constant.expand(halves[0].shape) : logits.to_type(dtype) + constant;
        var entering = logit.neg().sigmoid() * halves[0];                                // (1 - a) v, exact where a is close to 1
        var (average, last) = LinearRecurrence.Reference(entering, logit.log_sigmoid(), initialState, mask, restart);
        return ((average * halves[1].sigmoid()).to_type(valuesAndGates.dtype), last);
    }
}
