using Hybrid.Kernels.Cpu;
using Hybrid.Kernels.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// Runs the kernels of selective_scan.cu. Time is cut into as many chunks as fill the device together with rows and channels; a backward
/// pass needs the inputs and the states before every 16 steps.
/// </summary>
/// <param name="runtime">The device.</param>
internal sealed unsafe class ScanOnCuda(CudaRuntime runtime) : IScanDevice
{
    /// <summary>Steps between kept states: STEPS in selective_scan.cu.</summary>
    private const int KeptSteps = 16;

    /// <summary>Channels of a warp: WARP in the prelude.</summary>
    private const int WarpChannels = 32;

    /// <summary>Steps below which a chunk is not worth two more passes.</summary>
    private const int ShortestChunk = 64;

    /// <inheritdoc/>
    public ScalarType RowType(IEnumerable<Tensor> rows)
    {
        var dtypes = rows.Select(tensor => tensor.dtype).Distinct().ToArray();
        return dtypes.Length == 1 ? dtypes[0] : ScalarType.Float32;
    }

    /// <inheritdoc/>
    public (Tensor Y, Tensor? Kept) Forward(ScanTensors x, Tensor final, bool keep)
    {
        var sizes = new ScanSizes(x);
        var (batch, time, channels, n) = (sizes.Batch, sizes.Time, sizes.Channels, sizes.StateSize);
        var p = Inputs(x, sizes);
        var y = Rows(x, sizes);
        var local = Floats(x, p.Chunks - 1, batch, n, channels);
        var totals = Floats(x, p.Chunks - 1, batch, channels);
        var kept = keep ? Floats(x, (time + KeptSteps - 1) / KeptSteps, batch, n, channels) : null;
        (p.Y, p.Last, p.Local, p.Totals, p.Kept) = (Address(y), Address(final), Address(local), Address(totals), Address(kept));

        var program = Program(x, n);
        if (p.Chunks > 1)
        {
            runtime.Launch(program, "scan_local", (p.Chunks - 1) * batch * channels, p);
            runtime.Launch(program, "scan_carry", (long)batch * channels * n, p);
        }

        runtime.Launch(program, "scan_output", p.Chunks * batch * channels, p);
        TensorMemory.KeepAlive([.. x.All, final, y, local, totals, kept]);
        return (y, kept);
    }

    /// <inheritdoc/>
    public Tensor?[] Backward(ScanTensors x, Tensor kept, Tensor gradY, Tensor? gradFinal)
    {
        var sizes = new ScanSizes(x);
        var (batch, time, channels, n) = (sizes.Batch, sizes.Time, sizes.Channels, sizes.StateSize);
        var scan = Inputs(x, sizes);
        scan.Kept = Address(kept);
        var (slots, tiles) = (scan.Chunks * batch, channels / sizes.Unit * ((sizes.Unit + WarpChannels - 1L) / WarpChannels));

        // Each chunk or tile of channels writes a part of its own; the parts are added up afterwards.
        Tensor?[] parts =
        [
            Rows(x, sizes), Rows(x, sizes), Floats(x, slots, n, channels), MatrixPart(x.B), MatrixPart(x.C), x.D is null ? null : Floats(x, slots, channels),
            x.Z is null ? null : Rows(x, sizes), x.Bias is null ? null : Floats(x, slots, channels),
            x.Initial is null ? null : Floats(x, batch, channels, n),
        ];
        var local = Floats(x, scan.Chunks - 1, batch, n, channels);
        var totals = Floats(x, scan.Chunks - 1, batch, channels);
        var p = new ScanGradientArguments
        {
            Scan = scan,
            Y = new CudaRows(gradY),
            Last = Address(gradFinal),
            Local = Address(local),
            Totals = Address(totals),
            U = Address(parts[0]),
            Delta = Address(parts[1]),
            Decay = Address(parts[2]),
            InMatrix = Address(parts[3]),
            OutMatrix = Address(parts[4]),
            Skip = Address(parts[5]),
            Z = Address(parts[6]),
            Bias = Address(parts[7]),
            Initial = Address(parts[8]),
            Unit = sizes.Unit,
            InConstant = x.B.Dimensions == 2 ? 1 : 0,
            OutConstant = x.C.Dimensions == 2 ? 1 : 0,
        };

        var program = Program(x, n);
        if (scan.Chunks > 1)
        {
            runtime.Launch(program, "scan_local_gradient", (scan.Chunks - 1) * batch * channels, p);
            runtime.Launch(program, "scan_carry_gradient", (long)batch * channels * n, p);
        }

        runtime.Launch(program, "scan_gradient", tiles * slots * WarpChannels, p);
        TensorMemory.KeepAlive([.. x.All, kept, gradY, gradFinal, .. parts, local, totals]);
        return
        [
            parts[0], parts[1], parts[2]!.sum(dim: 0).t(), Joined(x.B, parts[3]!), Joined(x.C, parts[4]!),
            parts[5]?.sum(dim: 0), parts[6], parts[7]?.sum(dim: 0), parts[8], null, null,
        ];

        Tensor MatrixPart(Tensor matrix) => matrix.Dimensions == 2 ? Floats(x, slots, n, channels) : Floats(x, tiles, batch, n, time);
    }

    /// <summary>The gradient of B or C from its parts: [slots, N, E] where constant, else [tiles, B, N, T].</summary>
    private static Tensor Joined(Tensor matrix, Tensor parts)
    {
        switch (matrix.Dimensions)
        {
            case 2:
                return parts.sum(dim: 0).t();
            case 3:
                return parts.sum(dim: 0).transpose(1, 2);
            default:
                var shape = parts.shape;
                var groups = matrix.size(2);
                return parts.view([groups, shape[0] / groups, .. shape[1..]]).sum(dim: 1).permute(1, 3, 0, 2);
        }
    }

    private ScanArguments Inputs(ScanTensors x, ScanSizes sizes)
    {
        var (chunks, steps) = Cut((long)sizes.Batch * sizes.Channels, sizes.Time);
        return new ScanArguments
        {
            U = new CudaRows(x.U),
            Delta = new CudaRows(x.Delta),
            Z = new CudaRows(x.Z),
            InMatrix = new ScanMatrixArgument(x.B, sizes.Channels),
            OutMatrix = new ScanMatrixArgument(x.C, sizes.Channels),
            Decay = Address(x.A),
            Skip = Address(x.D),
            Bias = Address(x.Bias),
            Initial = Address(x.Initial),
            Mask = Address(x.Mask),
            Restart = Address(x.Restart),
            Batch = sizes.Batch,
            Time = sizes.Time,
            Channels = sizes.Channels,
            ChunkSteps = steps,
            Chunks = chunks,
            Softplus = x.Steps.Softplus ? 1 : 0,
            Low = (float)(x.Steps.Min ?? double.NegativeInfinity),
            High = (float)(x.Steps.Max ?? double.PositiveInfinity),
        };
    }

    /// <summary>Chunks of time, and steps of a chunk, so that channels of rows times chunks fill the device.</summary>
    private (long Chunks, long Steps) Cut(long rowChannels, long time)
    {
        var wanted = Math.Clamp(runtime.FullThreads / rowChannels, 1, Math.Max(1, time / ShortestChunk));
        var steps = RoundUp((time + wanted - 1) / wanted);
        return ((time + steps - 1) / steps, steps);

        static long RoundUp(long count) => (count + KeptSteps - 1) / KeptSteps * KeptSteps;
    }

    private static CudaProgram Program(ScanTensors x, int n) => CudaProgram.Of(
        "selective_scan.cu", x.U.dtype, ("STATES", n), ("SCAN_BYTES", sizeof(ScanArguments)), ("SCAN_GRADIENT_BYTES", sizeof(ScanGradientArguments)));

    private static nint Address(Tensor? tensor) => CudaRows.Address(tensor);

    /// <summary>Room for [B, T, E] in the dtype of the inputs.</summary>
    private static Tensor Rows(ScanTensors x, ScanSizes sizes) =>
        empty([sizes.Batch, sizes.Time, sizes.Channels], dtype: x.U.dtype, device: x.U.device);

    private static Tensor Floats(ScanTensors x, params long[] shape) => empty(shape, dtype: ScalarType.Float32, device: x.U.device);
}
