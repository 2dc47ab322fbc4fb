using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>The tensors of the recurrence on CPU, all float32 with the last dimension in one piece, and what is done to the step sizes.</summary>
internal sealed record DualityTensors(
    Tensor X, Tensor Dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? Z, Tensor? Bias, Tensor? Initial, Tensor? Mask, Tensor? Restart, ScanSteps Steps)
{
    /// <summary>All tensors, in the order of the constructor; null where there is none.</summary>
    public Tensor?[] All => [X, Dt, A, B, C, D, Z, Bias, Initial, Mask, Restart];

    /// <summary>From tensors in the order of the constructor.</summary>
    public static DualityTensors From(IReadOnlyList<Tensor?> all, ScanSteps steps) =>
        new(all[0]!, all[1]!, all[2]!, all[3]!, all[4]!, all[5], all[6], all[7], all[8], all[9], all[10], steps);
}

/// <summary>Sizes of the recurrence. Time is cut into chunks of as many steps as a decay matrix has.</summary>
internal readonly struct DualitySizes
{
    /// <summary>Steps of a chunk, L.</summary>
    public const int ChunkSteps = LaneDecay<Lane128>.Steps;

    public readonly int Batch;
    public readonly int Time;
    public readonly int Heads;
    public readonly int HeadWidth;
    public readonly int Groups;
    public readonly int StateSize;

    public DualitySizes(DualityTensors x)
    {
        var (shape, matrix) = (x.X.shape, x.B.shape);
        (Batch, Time, Heads, HeadWidth) = ((int)shape[0], (int)shape[1], (int)shape[2], (int)shape[3]);
        (Groups, StateSize) = ((int)matrix[2], (int)matrix[3]);
    }

    public int Chunks => (Time + ChunkSteps - 1) / ChunkSteps;

    public int HeadsOfGroup => Heads / Groups;

    /// <summary>States that are computed.</summary>
    public long Elements => (long)Batch * Time * Heads * HeadWidth * StateSize;

    /// <summary>Floats of [B, H, P, N].</summary>
    public long StateCount => (long)Batch * Heads * HeadWidth * StateSize;

    /// <summary>Steps of a chunk: L, or what is left for the last.</summary>
    public int Count(int chunk) => Math.Min(ChunkSteps, Time - (chunk * ChunkSteps));
}

/// <summary>Addresses and strides of the tensors of the recurrence.</summary>
internal readonly unsafe struct DualityInputs
{
    public readonly DualitySizes Sizes;
    public readonly HeadView X;
    public readonly RowView Dt;
    public readonly HeadView Z;
    public readonly HeadView B;
    public readonly HeadView C;
    public readonly float* A;
    public readonly float* Bias;
    public readonly float* Initial;
    public readonly bool Softplus;
    public readonly float Min;
    public readonly float Max;
    private readonly float* skip;
    private readonly int skipWidth;
    private readonly bool* mask;
    private readonly bool* restart;

    public DualityInputs(DualityTensors x, DualitySizes sizes)
    {
        Sizes = sizes;
        (X, Z, B, C) = (new HeadView(x.X), new HeadView(x.Z), new HeadView(x.B), new HeadView(x.C));
        Dt = new RowView(x.Dt);
        A = ScanInputs.Floats(x.A);
        skip = ScanInputs.Floats(x.D);
        skipWidth = x.D is { Dimensions: 2 } ? sizes.HeadWidth : 1;
        Bias = ScanInputs.Floats(x.Bias);
        Initial = ScanInputs.Floats(x.Initial);
        mask = (bool*)ScanInputs.Floats(x.Mask);
        restart = (bool*)ScanInputs.Floats(x.Restart);
        Softplus = x.Steps.Softplus;
        Min = (float)(x.Steps.Min ?? double.NegativeInfinity);
        Max = (float)(x.Steps.Max ?? double.PositiveInfinity);
    }

    public bool HasSkip => skip != null;

    public bool HasPadding => mask != null;

    public bool HasRestarts => restart != null;

    /// <summary>False at padding.</summary>
    public bool IsReal(int row, int step) => mask == null || mask[((long)row * Sizes.Time) + step];

    /// <summary>True at the first token of a packed sequence.</summary>
    public bool Restarts(int row, int step) => restart != null && restart[((long)row * Sizes.Time) + step];

    /// <summary>D of a head, the same for all its channels or not.</summary>
    public void Skip(int head, float* target)
    {
        for (var channel = 0; channel < Sizes.HeadWidth; channel++)
        {
            target[channel] = skip == null ? 0 : skip[(head * skipWidth) + (skipWidth == 1 ? 0 : channel)];
        }
    }
}

/// <summary>
/// C_i B_j of all pairs of steps of each chunk: [B, G, chunks, L, L], and the matrices B and C with time last: [B, G, chunks, N, L]; what all heads
/// of a group share. The time-last ones are there for a backward pass only.
/// </summary>
internal readonly unsafe struct DualityShared(Tensor scores, Tensor? timeLastB, Tensor? timeLastC, DualitySizes sizes)
{
    private readonly float* scores = ScanInputs.Floats(scores);
    private readonly float* timeLastB = ScanInputs.Floats(timeLastB);
    private readonly float* timeLastC = ScanInputs.Floats(timeLastC);
    private readonly DualitySizes sizes = sizes;

    public float* Scores(int row, int group, int chunk) => scores + (Place(row, group, chunk) * DualitySizes.ChunkSteps * DualitySizes.ChunkSteps);

    public float* TimeLastB(int row, int group, int chunk) => At(timeLastB, row, group, chunk);

    public float* TimeLastC(int row, int group, int chunk) => At(timeLastC, row, group, chunk);

    private float* At(float* matrices, int row, int group, int chunk) =>
        matrices == null ? null : matrices + (Place(row, group, chunk) * sizes.StateSize * DualitySizes.ChunkSteps);

    private long Place(int row, int group, int chunk) => ((((long)row * sizes.Groups) + group) * sizes.Chunks) + chunk;
}

/// <summary>Addresses of the results: y [B, T, H, P] and the last state [B, H, P, N].</summary>
internal readonly unsafe struct DualityResults(Tensor y, Tensor final)
{
    public readonly HeadView Y = new(y);
    public readonly float* Final = ScanInputs.Floats(final);
}

/// <summary>
/// Addresses of the gradients that come in and go out; null where there is no such input. Each head writes a part of its own: of A and the bias
/// [B, H], of D [B, H, P], of B and C [B, H, chunks, N, L].
/// </summary>
internal readonly unsafe struct DualityGradients(Tensor y, Tensor? final, Tensor?[] parts)
{
    public readonly HeadView Y = new(y);
    public readonly float* Final = ScanInputs.Floats(final);
    public readonly HeadView X = new(parts[0]);
    public readonly RowView Dt = new(parts[1]);
    public readonly float* A = ScanInputs.Floats(parts[2]);
    public readonly float* B = ScanInputs.Floats(parts[3]);
    public readonly float* C = ScanInputs.Floats(parts[4]);
    public readonly float* D = ScanInputs.Floats(parts[5]);
    public readonly HeadView Z = new(parts[6]);
    public readonly float* Bias = ScanInputs.Floats(parts[7]);
    public readonly float* Initial = ScanInputs.Floats(parts[8]);
}
