using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>Runs the fused convolution and its gradient somewhere.</summary>
internal interface IConvDevice
{
    /// <summary>The dtype in which x and the history are read, and y and their gradients written.</summary>
    ScalarType RowType(Tensor x);

    /// <returns>y [B, T, E].</returns>
    Tensor Forward(ConvTensors tensors);

    /// <summary>Gradients in the order of <see cref="ConvTensors"/>, null where there is no such input.</summary>
    Tensor?[] Backward(ConvTensors tensors, Tensor gradY);
}
