using System.Numerics;
using Hybrid.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The tensors of a fused scan, and what is done to the step sizes. u, delta, z, B and C have one dtype and their channels (of B and C: states)
/// next to each other; the others are contiguous, float32 or bool.
/// </summary>
internal sealed record ScanTensors(
    Tensor U, Tensor Delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? Z, Tensor? Bias, Tensor? Initial, Tensor? Mask, Tensor? Restart, ScanSteps Steps)
{
    /// <summary>Tensors of a scan, in the order of the constructor.</summary>
    public const int Count = 11;

    /// <summary>All tensors, in the order of the constructor; null where there is none.</summary>
    public Tensor?[] All => [U, Delta, A, B, C, D, Z, Bias, Initial, Mask, Restart];

    /// <summary>From tensors in the order of the constructor.</summary>
    public static ScanTensors From(IReadOnlyList<Tensor?> all, ScanSteps steps) =>
        new(all[0]!, all[1]!, all[2]!, all[3]!, all[4]!, all[5], all[6], all[7], all[8], all[9], all[10], steps);
}

/// <summary>What becomes of step sizes: the softplus, then the limits.</summary>
internal sealed record ScanSteps(bool Softplus, double? Min, double? Max);

/// <summary>
/// Sizes of a scan, and how it is cut into work: time into chunks of 32 steps, channels into groups of at most 128 that share their B and C.
/// </summary>
internal readonly struct ScanSizes
{
    public const int ChunkSteps = 32;
    private const int GroupChannels = 128;
    private const int WidestLane = 16;
    private readonly int unit;
    private readonly int groupsPerUnit;

    public ScanSizes(ScanTensors x)
    {
        var shape = x.U.shape;
        (Batch, Time, Channels, StateSize) = ((int)shape[0], (int)shape[1], (int)shape[2], (int)x.A.size(1));
        Chunks = (Time + ChunkSteps - 1) / ChunkSteps;
        unit = (int)BigInteger.GreatestCommonDivisor(Channels / MatrixGroups(x.B), Channels / MatrixGroups(x.C));
        groupsPerUnit = (unit + GroupChannels - 1) / GroupChannels;
        Groups = Channels / unit * groupsPerUnit;
    }

    public int Batch { get; }

    public int Time { get; }

    public int Channels { get; }

    public int StateSize { get; }

    public int Chunks { get; }

    public int Groups { get; }

    /// <summary>Neighbouring channels that share their B and C.</summary>
    public int Unit => unit;

    /// <summary>Floats of one group's states at chunk boundaries: [chunks, blocks, N, lanes] for any width of lanes.</summary>
    public long BoundaryStride => (long)Chunks * StateSize * ((Math.Min(unit, GroupChannels) + WidestLane - 1) / WidestLane * WidestLane);

    public long BoundaryCount => BoundaryStride * Groups * Batch;

    /// <summary>States that are computed.</summary>
    public long Elements => (long)Batch * Time * Channels * StateSize;

    /// <summary>First channel and number of channels of a group.</summary>
    public (int First, int Count) Group(int group)
    {
        var (of, within) = (group / groupsPerUnit, group % groupsPerUnit * GroupChannels);
        return ((of * unit) + within, Math.Min(GroupChannels, unit - within));
    }

    /// <summary>Groups of channels that have a B or C of their own; 1 for a constant one, which has no bounds of groups.</summary>
    public static int MatrixGroups(Tensor matrix) => matrix.Dimensions == 4 ? (int)matrix.size(2) : 1;
}

/// <summary>Rows [B, T, E] of which the channels are next to each other.</summary>
internal readonly unsafe struct RowView
{
    private readonly float* first;
    private readonly long batch;
    private readonly long time;

    /// <summary>Null gives a view of nothing.</summary>
    public RowView(Tensor? rows)
    {
        if (rows is not null)
        {
            var strides = rows.stride();
            first = (float*)TensorMemory.Address(rows);
            (batch, time) = (strides[0], strides[1]);
        }
    }

    private RowView(float* first, long batch, long time)
    {
        this.first = first;
        (this.batch, this.time) = (batch, time);
    }

    public bool Exists => first != null;

    /// <summary>The same rows from a later channel on.</summary>
    public RowView From(int channel) => Exists ? new(first + channel, batch, time) : this;

    public float* At(int row, int step) => first + (row * batch) + (step * time);

    /// <summary>The tensor itself where its channels are next to each other, else a copy.</summary>
    public static Tensor Of(Tensor rows)
    {
        var last = (int)rows.Dimensions - 1;
        return rows.stride()[last] == 1 || rows.shape[last] == 1 ? rows : rows.contiguous();
    }
}

/// <summary>B or C: [B, T, N], [B, T, G, N] or constant [E, N].</summary>
internal readonly unsafe struct MatrixView
{
    private readonly float* first;
    private readonly long batch;
    private readonly long time;
    private readonly long group;
    private readonly int channels;

    public MatrixView(Tensor matrix, int allChannels)
    {
        var strides = matrix.stride();
        first = (float*)TensorMemory.Address(matrix);
        PerChannel = strides.Length == 2;
        (batch, time, group) = strides.Length switch
        {
            2 => (0, 0, strides[0]),
            3 => (strides[0], strides[1], 0),
            _ => (strides[0], strides[1], strides[2]),
        };
        channels = PerChannel ? 1 : allChannels / ScanSizes.MatrixGroups(matrix);
    }

    /// <summary>True where it is [E, N].</summary>
    public bool PerChannel { get; }

    /// <summary>From one step to the next; 0 where it is constant.</summary>
    public long Step => time;

    public float* At(int row, int step, int channel) => first + (row * batch) + (step * time) + (channel / channels * group);
}

/// <summary>Addresses and strides of the tensors of a scan.</summary>
internal readonly unsafe struct ScanInputs
{
    public readonly ScanSizes Sizes;
    public readonly RowView U;
    public readonly RowView Delta;
    public readonly RowView Z;
    public readonly float* A;
    public readonly MatrixView B;
    public readonly MatrixView C;
    public readonly float* D;
    public readonly float* Bias;
    public readonly float* Initial;
    public readonly bool Softplus;
    public readonly float Min;
    public readonly float Max;
    private readonly bool* mask;
    private readonly bool* restart;

    public ScanInputs(ScanTensors x, ScanSizes sizes)
    {
        Sizes = sizes;
        (U, Delta, Z) = (new RowView(x.U), new RowView(x.Delta), new RowView(x.Z));
        (B, C) = (new MatrixView(x.B, sizes.Channels), new MatrixView(x.C, sizes.Channels));
        A = Floats(x.A);
        D = Floats(x.D);
        Bias = Floats(x.Bias);
        Initial = Floats(x.Initial);
        mask = (bool*)Floats(x.Mask);
        restart = (bool*)Floats(x.Restart);
        Softplus = x.Steps.Softplus;
        Min = (float)(x.Steps.Min ?? double.NegativeInfinity);
        Max = (float)(x.Steps.Max ?? double.PositiveInfinity);
    }

    /// <summary>False at padding.</summary>
    public bool IsReal(int row, int step) => mask == null || mask[((long)row * Sizes.Time) + step];

    /// <summary>True at the first token of a packed sequence.</summary>
    public bool Restarts(int row, int step) => restart != null && restart[((long)row * Sizes.Time) + step];

    public static float* Floats(Tensor? tensor) => tensor is null ? null : (float*)TensorMemory.Address(tensor);
}

/// <summary>Addresses of the results: y [B, T, E], the last state [B, E, N], and the states at chunk boundaries, or null where nobody needs them.</summary>
internal readonly unsafe struct ScanResults(Tensor y, Tensor final, Tensor? boundaries)
{
    public readonly RowView Y = new(y);
    public readonly float* Final = ScanInputs.Floats(final);
    public readonly float* Boundaries = ScanInputs.Floats(boundaries);
}

/// <summary>Addresses of the gradients that come in and go out; null where there is no such input. Sums over rows or groups are in parts.</summary>
internal readonly unsafe struct ScanGradients(Tensor y, Tensor? final, Tensor boundaries, Tensor?[] parts)
{
    public readonly RowView Y = new(y);
    public readonly float* Final = ScanInputs.Floats(final);
    public readonly float* Boundaries = ScanInputs.Floats(boundaries);
    public readonly RowView U = new(parts[0]);
    public readonly RowView Delta = new(parts[1]);
    public readonly float* A = ScanInputs.Floats(parts[2]);
    public readonly float* B = ScanInputs.Floats(parts[3]);
    public readonly float* C = ScanInputs.Floats(parts[4]);
    public readonly float* D = ScanInputs.Floats(parts[5]);
    public readonly RowView Z = new(parts[6]);
    public readonly float* Bias = ScanInputs.Floats(parts[7]);
    public readonly float* Initial = ScanInputs.Floats(parts[8]);
}
