using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>Runs the gated delta rule and its gradient somewhere.</summary>
internal interface IDeltaDevice
{
    /// <summary>The dtype in which q, k and v are read.</summary>
    /// <param name="rows">q, k and v as they come.</param>
    ScalarType RowType(IEnumerable<Tensor> rows);

    /// <summary>o [B, T, H, V] in float32, and what a backward pass starts from where <paramref name="keep"/> asks for it; fills <paramref name="final"/>.</summary>
    (Tensor O, Tensor? Kept) Forward(DeltaTensors x, Tensor final, bool keep);

    /// <summary>Gradients in the order of <see cref="DeltaTensors"/>, null where there is no such input.</summary>
    /// <param name="x">The inputs.</param>
    /// <param name="kept">What the forward pass kept.</param>
    /// <param name="gradO">Gradient of o, float32.</param>
    /// <param name="gradFinal">Gradient of the final state, or null.</param>
    Tensor?[] Backward(DeltaTensors x, Tensor? kept, Tensor gradO, Tensor? gradFinal);
}
