using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>Runs the scan's kernel over batch rows and groups of channels.</summary>
internal sealed class ScanOnCpu : IScanDevice
{
    /// <summary>It holds nothing.</summary>
    public static ScanOnCpu Instance { get; } = new();

    /// <inheritdoc/>
    public ScalarType RowType(IEnumerable<Tensor> rows) => ScalarType.Float32;

    /// <inheritdoc/>
    public (Tensor Y, Tensor? Kept) Forward(ScanTensors x, Tensor final, bool keep)
    {
        var sizes = new ScanSizes(x);
        var boundaries = keep ? Uninitialised([sizes.BoundaryCount]) : null;
        var y = Uninitialised([sizes.Batch, sizes.Time, sizes.Channels]);
        var work = new ForwardWork(new ScanInputs(x, sizes), new ScanResults(y, final, boundaries));
        LaneTasks.Run(work, sizes.Batch * sizes.Groups, sizes.Elements);
        TensorMemory.KeepAlive([.. x.All, final, boundaries]);
        return (y, boundaries);
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(ScanTensors x, Tensor kept, Tensor gradY, Tensor? gradFinal)
    {
        var sizes = new ScanSizes(x);
        var (batch, time, channels, n) = (sizes.Batch, sizes.Time, sizes.Channels, sizes.StateSize);

        // Each task writes a part of its own, added up afterwards in a fixed order: A, D and the bias sum over rows, B and C over groups.
        Tensor?[] parts =
        [
            Uninitialised([batch, time, channels]), Uninitialised([batch, time, channels]), Uninitialised([batch, channels, n]), MatrixPart(x.B), MatrixPart(x.C),
            x.D is null ? null : Uninitialised([batch, channels]), x.Z is null ? null : Uninitialised([batch, time, channels]),
            x.Bias is null ? null : Uninitialised([batch, channels]), x.Initial is null ? null : Uninitialised([batch, channels, n]),
        ];
        var work = new BackwardWork(new ScanInputs(x, sizes), new ScanGradients(gradY, gradFinal, kept, parts));
        LaneTasks.Run(work, batch * sizes.Groups, sizes.Elements);
        TensorMemory.KeepAlive([.. x.All, kept, gradY, gradFinal, .. parts]);
        return
        [
            parts[0], parts[1], parts[2]!.sum(dim: 0), Joined(x.B, parts[3]!), Joined(x.C, parts[4]!),
            parts[5]?.sum(dim: 0), parts[6], parts[7]?.sum(dim: 0), parts[8], null, null,
        ];

        Tensor MatrixPart(Tensor matrix) =>
            matrix.Dimensions == 2 ? Uninitialised([batch, channels, n]) : Uninitialised([sizes.Groups, batch, time, n]);
    }

    private static Tensor Uninitialised(long[] shape) => empty(shape, dtype: ScalarType.Float32);

    /// <summary>The gradient of B or C from its parts.</summary>
    private static Tensor Joined(Tensor matrix, Tensor parts)
    {
        if (matrix.Dimensions < 4)
        {
            return parts.sum(dim: 0);
        }

        var shape = parts.shape;
        var groups = matrix.size(2);
        return parts.view([groups, shape[0] / groups, .. shape[1..]]).sum(dim: 1).permute(1, 2, 0, 3);
    }

    private readonly struct ForwardWork(ScanInputs p, ScanResults results) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var (row, group) = (task / p.Sizes.Groups, task % p.Sizes.Groups);
            switch (p.B.PerChannel, p.C.PerChannel)
            {
                case (false, false):
                    ScanKernel<TLane, SharedMatrix<TLane>, SharedMatrix<TLane>>.Forward(p, results, row, group);
                    break;
                case (true, false):
                    ScanKernel<TLane, ChannelMatrix<TLane>, SharedMatrix<TLane>>.Forward(p, results, row, group);
                    break;
                case (false, true):
                    ScanKernel<TLane, SharedMatrix<TLane>, ChannelMatrix<TLane>>.Forward(p, results, row, group);
                    break;
                default:
                    ScanKernel<TLane, ChannelMatrix<TLane>, ChannelMatrix<TLane>>.Forward(p, results, row, group);
                    break;
            }
        }
    }

    private readonly struct BackwardWork(ScanInputs p, ScanGradients gradients) : ILaneWork
    {
        public void Run<TLane>(int task)
            where TLane : struct, ILane<TLane>
        {
            var (row, group) = (task / p.Sizes.Groups, task % p.Sizes.Groups);
            switch (p.B.PerChannel, p.C.PerChannel)
            {
                case (false, false):
                    ScanKernel<TLane, SharedMatrix<TLane>, SharedMatrix<TLane>>.Backward(p, gradients, row, group);
                    break;
                case (true, false):
                    ScanKernel<TLane, ChannelMatrix<TLane>, SharedMatrix<TLane>>.Backward(p, gradients, row, group);
                    break;
                case (false, true):
                    ScanKernel<TLane, SharedMatrix<TLane>, ChannelMatrix<TLane>>.Backward(p, gradients, row, group);
                    break;
                default:
                    ScanKernel<TLane, ChannelMatrix<TLane>, ChannelMatrix<TLane>>.Backward(p, gradients, row, group);
                    break;
            }
        }
    }
}
