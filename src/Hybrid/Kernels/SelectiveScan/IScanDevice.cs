using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>Runs the fused scan and its gradient somewhere.</summary>
internal interface IScanDevice
{
    /// <summary>The dtype in which u, delta, z, B and C are read, and y and their gradients written.</summary>
    /// <param name="rows">u, delta, z, B and C as they come.</param>
    ScalarType RowType(IEnumerable<Tensor> rows);

    /// <summary>y [B, T, E], and the states that a backward pass starts from where <paramref name="keep"/> asks for them; fills <paramref name="final"/>.</summary>
    (Tensor Y, Tensor? Kept) Forward(ScanTensors x, Tensor final, bool keep);

    /// <summary>Gradients in the order of <see cref="ScanTensors"/>, null where there is no such input.</summary>
    /// <param name="x">The inputs.</param>
    /// <param name="kept">What the forward pass kept.</param>
    /// <param name="gradY">Gradient of y.</param>
    /// <param name="gradFinal">Gradient of the final state, or null.</param>
    Tensor?[] Backward(ScanTensors x, Tensor kept, Tensor gradY, Tensor? gradFinal);
}
