using Hybrid.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>How attention scores are computed. All modes give the same numbers.</summary>
public enum AttentionMode
{
    /// <summary>All queries at once: memory T x S where no fused operation applies.</summary>
    Dense,

    /// <summary>One chunk of queries after the other: memory C x S, or C x (w + C) with a window.</summary>
    Chunked,

    /// <summary>
    /// Chunks of queries over chunks of keys with a running softmax (Milakov and Gimelshein, arXiv 1805.02867; Rabe and Staats,
    /// arXiv 2112.05682): memory C x C for the scores. The backward pass computes them again, chunk by chunk (Dao et al.,
    /// arXiv 2205.14135), so training needs no more; with dropout on the weights it keeps the scores of all visible chunks instead.
    /// </summary>
    Online,
}

/// <summary>
/// Causal attention <c>softmax(cap(scale Q K^T)) V</c> over the visible keys, with <c>cap(s) = c tanh(s / c)</c> where a soft cap is set.
/// </summary>
internal static class ScaledDotProduct
{
    /// <summary>Mixes values.</summary>
    /// <param name="query">[B, H, T, K].</param>
    /// <param name="key">[B, G, S, K]; the H / G consecutive query heads of a group share a key head.</param>
    /// <param name="value">[B, G, S, V].</param>
    /// <param name="visible">Which keys each query sees; every query sees at least one of the S.</param>
    /// <param name="options">Scale, soft cap, mode and chunk size.</param>
    /// <param name="dropout">Share of the attention weights to drop.</param>
    /// <returns>[B, H, T, V] in the dtype of the values.</returns>
    public static Tensor Apply(Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, double dropout)
    {
        return dropout == 0 && AttentionStep.CanRun(query, key, value, visible)
            ? AttentionStep.Apply(query, key, value, visible, options)
            : Composed(query, key, value, visible, options, dropout);
    }

    /// <summary>The same in tensor operations, on any device and in any dtype.</summary>
    internal static Tensor Composed(Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, double dropout)
    {
        if (options.Mode == AttentionMode.Online)
        {
            return OnlineAttention.Apply(query, key, value, visible, options, dropout);
        }

        using var scope = NewDisposeScope();
        var chunk = options.Mode == AttentionMode.Dense ? query.size(2) : options.ChunkSize;
        var pieces = new List<Tensor>();
        foreach (var block in AttentionBlock.Split(query, key, value, visible, options, chunk))
        {
            using var inner = NewDisposeScope();
            pieces.Add((options.SoftCap is null ? block.Fused(dropout) : block.Capped(dropout)).MoveToOuterDisposeScope());
        }

        return (pieces.Count == 1 ? pieces[0] : cat(pieces, 2)).MoveToOuterDisposeScope();
    }
}
