using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>Runs the kernel of the gated delta rule over heads and batch rows.</summary>
internal sealed class DeltaOnCpu : IDeltaDevice
{
    /// <summary>It holds nothing.</summary>
    public static DeltaOnCpu Instance { get; } = new();

    /// <inheritdoc/>
    public ScalarType RowType(IEnumerable<Tensor> rows) => ScalarType.Float32;

    /// <inheritdoc/>
    public (Tensor O, Tensor? Kept) Forward(DeltaTensors x, Tensor final, bool keep)
    {
        var sizes = new DeltaSizes(x);
        var o = empty(x.V.shape, dtype: ScalarType.Float32);
        LaneTasks.Run(new ForwardWork(new DeltaInputs(x, sizes), new DeltaResults(o, final)), sizes.Batch * sizes.Heads, sizes.Elements);
        TensorMemory.KeepAlive([.. x.All, final]);
        return (o, null);
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(DeltaTensors x, Tensor? kept, Tensor gradO, Tensor? gradFinal)
    {
        var sizes = new DeltaSizes(x);
        Tensor?[] gradients = [.. x.All.Select((tensor, i) => tensor is null || i > 5 ? null : empty(tensor.shape, dtype: ScalarType.Float32))];
        LaneTasks.Run(
            new BackwardWork(new DeltaInputs(x, sizes), new DeltaGradients(gradO, gradFinal, gradients)), sizes.Batch * sizes.Heads, sizes.Elements);
        TensorMemory.KeepAlive([.. x.All, gradO, gradFinal, .. gradients]);
        return gradients;
    }

    private readonly struct ForwardWork(DeltaInputs p, DeltaResults results) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane> => DeltaKernel<TLane>.Forward(p, results, task / p.Sizes.Heads, task % p.Sizes.Heads);
    }

    private readonly struct BackwardWork(DeltaInputs p, DeltaGradients gradients) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane> => DeltaKernel<TLane>.Backward(p, gradients, task / p.Sizes.Heads, task % p.Sizes.Heads);
    }
}
