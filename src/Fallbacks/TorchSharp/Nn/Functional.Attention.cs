using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public static partial class nn
    {
        public static partial class functional
        {
            private static readonly Op Attention = "scaled_dot_product_attention";
            private static readonly bool AttentionExists = Attention.Exists;

            /// <summary>
            /// softmax(Q K^T / sqrt(E) + mask) V for Q [.., L, E], K [.., S, E], V [.., S, Ev]; a boolean mask is true where
            /// a key takes part. libtorch before 2.0 has no operator for it.
            /// </summary>
            public static Tensor scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask = null, double p = 0.0, bool is_casual = false)
            {
                if (is_casual && attn_mask is not null) throw new ArgumentException("Casual attention masking cannot pass a mask.");
                if (AttentionExists) return Attention.Call(query, key, value, attn_mask, p, is_casual);

                using var scope = NewDisposeScope();
                // Half of the scale on either side keeps the scores of float16 in range.
                double half = Math.Pow(query.shape[^1], -0.25);
                var scores = matmul(query * half, (key * half).transpose(-2, -1));

                var mask = is_casual ? ones(scores.shape[^2], scores.shape[^1], ScalarType.Bool, query.device).tril() : attn_mask;
                if (mask is not null)
                    scores = mask.dtype == ScalarType.Bool ? scores.masked_fill(mask.logical_not(), double.NegativeInfinity) : scores + mask;

                var weights = softmax(scores, -1);
                if (p > 0) weights = dropout(weights, p);
                return matmul(weights, value).MoveToOuterDisposeScope();
            }
        }
    }
}
