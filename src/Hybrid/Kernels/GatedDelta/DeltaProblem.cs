using Hybrid.Kernels.Cpu;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>What is done to queries and keys: the factor of the queries, and whether both are divided by their norm.</summary>
internal sealed record DeltaKeys(double Scale, bool Normalise);

/// <summary>
/// The tensors of the rule with the last dimension in one piece, and what is done to queries and keys. q, k and v have one dtype, which is float32 on
/// CPU; the others are float32 or bool.
/// </summary>
internal sealed record DeltaTensors(
    Tensor Q, Tensor K, Tensor V, Tensor Beta, Tensor? G, Tensor? Initial, Tensor? Mask, Tensor? Restart, DeltaKeys Keys)
{
    /// <summary>All tensors, in the order of the constructor; null where there is none.</summary>
    public Tensor?[] All => [Q, K, V, Beta, G, Initial, Mask, Restart];

    /// <summary>From tensors in the order of the constructor.</summary>
    public static DeltaTensors From(IReadOnlyList<Tensor?> all, DeltaKeys keys) =>
        new(all[0]!, all[1]!, all[2]!, all[3]!, all[4], all[5], all[6], all[7], keys);
}

/// <summary>Sizes of the rule. Time is cut into chunks of as many steps as a decay matrix has.</summary>
internal readonly struct DeltaSizes
{
    /// <summary>Steps of a chunk, L.</summary>
    public const int ChunkSteps = LaneDecay<Lane128>.Steps;

    public readonly int Batch;
    public readonly int Time;
    public readonly int Heads;
    public readonly int KeyWidth;
    public readonly int ValueWidth;

    public DeltaSizes(DeltaTensors x)
    {
        var shape = x.Q.shape;
        (Batch, Time, Heads, KeyWidth, ValueWidth) = ((int)shape[0], (int)shape[1], (int)shape[2], (int)shape[3], (int)x.V.size(3));
    }

    public int Chunks => (Time + ChunkSteps - 1) / ChunkSteps;

    /// <summary>States that are computed.</summary>
    public long Elements => (long)Batch * Time * Heads * KeyWidth * ValueWidth;

    /// <summary>Steps of a chunk: L, or what is left for the last.</summary>
    public int Count(int chunk) => Math.Min(ChunkSteps, Time - (chunk * ChunkSteps));
}

/// <summary>Addresses and strides of the tensors of the rule.</summary>
internal readonly unsafe struct DeltaInputs
{
    public readonly DeltaSizes Sizes;
    public readonly HeadView Q;
    public readonly HeadView K;
    public readonly HeadView V;
    public readonly RowView Beta;
    public readonly RowView G;
    public readonly float* Initial;
    public readonly float Scale;
    public readonly bool Normalise;
    private readonly bool* mask;
    private readonly bool* restart;

    public DeltaInputs(DeltaTensors x, DeltaSizes sizes)
    {
        Sizes = sizes;
        (Q, K, V) = (new HeadView(x.Q), new HeadView(x.K), new HeadView(x.V));
        (Beta, G) = (new RowView(x.Beta), new RowView(x.G));
        Initial = ScanInputs.Floats(x.Initial);
        mask = (bool*)ScanInputs.Floats(x.Mask);
        restart = (bool*)ScanInputs.Floats(x.Restart);
        Scale = (float)x.Keys.Scale;
        Normalise = x.Keys.Normalise;
    }

    /// <summary>False at padding.</summary>
    public bool IsReal(int row, int step) => mask == null || mask[((long)row * Sizes.Time) + step];

    /// <summary>True at the first token of a packed sequence.</summary>
    public bool Restarts(int row, int step) => restart != null && restart[((long)row * Sizes.Time) + step];
}

/// <summary>Addresses of the results: o [B, T, H, V] and the last state [B, H, K, V].</summary>
internal readonly unsafe struct DeltaResults(Tensor o, Tensor final)
{
    public readonly HeadView O = new(o);
    public readonly float* Final = ScanInputs.Floats(final);
}

/// <summary>Addresses of the gradients that come in and go out; null where there is no such input.</summary>
internal readonly unsafe struct DeltaGradients(Tensor o, Tensor? final, Tensor?[] inputs)
{
    public readonly HeadView O = new(o);
    public readonly float* Final = ScanInputs.Floats(final);
    public readonly HeadView Q = new(inputs[0]);
    public readonly HeadView K = new(inputs[1]);
    public readonly HeadView V = new(inputs[2]);
    public readonly RowView Beta = new(inputs[3]);
    public readonly RowView G = new(inputs[4]);
    public readonly float* Initial = ScanInputs.Floats(inputs[5]);
}
