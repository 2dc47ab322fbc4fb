namespace Hybrid.Kernels;

/// <summary>Sizes and addresses of a step: queries [B, H, T, K], keys [B, G, S, K] and values [B, G, S, V], their last dimension contiguous.</summary>
internal unsafe struct AttentionStepSizes
{
    /// <summary>Keys whose scores are on the stack at a time; a multiple of the lanes of every register.</summary>
    public const int BlockKeys = 64;

    /// <summary>Keys of a unit, so that a long cache of few heads is shared among threads.</summary>
    public const int ChunkKeys = 512;

    /// <summary>The running softmax of a query: its maximum and its sum, then the mixed values.</summary>
    public const int Statistics = 2;

    /// <summary>Products of a part, so that a small cache stays on one thread.</summary>
    private const long PartProducts = 64 * 1024;

    public float* Query;
    public byte* Keys;
    public byte* Values;

    /// <summary>Keys before the first query of each row: [B].</summary>
    public long* Starts;

    /// <summary>Results of the units: [B, G, chunks, (H / G) T, 2 + V].</summary>
    public float* Mixed;

    /// <summary>Room of each part for a block of keys and values in float32, where the cache holds another type.</summary>
    public float* Widened;

    /// <summary>[B, T, H, V].</summary>
    public float* Output;

    /// <summary>Elements between rows, heads, and queries or slots.</summary>
    public (long Row, long Head, long Token) QueryStrides;
    public (long Row, long Head, long Token) KeyStrides;
    public (long Row, long Head, long Token) ValueStrides;
    public int Batch;
    public int Heads;
    public int Groups;
    public int Time;
    public int KeyWidth;
    public int ValueWidth;
    public int Chunks;

    /// <summary>Keys that a query sees, its own counted.</summary>
    public long Window;
    public float Scale;

    /// <summary>Bends the scores; 0 does not.</summary>
    public float SoftCap;

    /// <summary>Query heads that share a key head.</summary>
    public readonly int Members => Heads / Groups;

    public readonly int ResultFloats => Statistics + ValueWidth;

    public readonly int UnitFloats => Members * Time * ResultFloats;

    public readonly int WidenedFloats => BlockKeys * (KeyWidth + ValueWidth);

    public readonly int Units => Batch * Groups * Chunks;

    public readonly int PartUnits =>
        (int)Math.Clamp(PartProducts / (ChunkKeys * (long)(KeyWidth + ValueWidth) * Members * Time), 1, Units);

    public readonly int Parts => (Units + PartUnits - 1) / PartUnits;

    /// <summary>The keys that a query sees.</summary>
    public readonly (long First, long End) Sees(int row, int query)
    {
        var own = Starts[row] + query;
        return (own < Window ? 0 : own - Window + 1, own + 1);
    }
}
