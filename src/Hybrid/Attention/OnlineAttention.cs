using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>
/// Attention over chunks of queries and keys with a running softmax: for the scores s of a chunk <c>m' = max(m, max s)</c>,
/// <c>l' = e^(m - m') l + sum e^(s - m')</c>, <c>o' = e^(m - m') o + e^(s - m') V</c>; the result is o / l. The backward pass computes the
/// weights of a chunk again from the log-sum-exp <c>L = m + ln l</c> as <c>p = e^(s - L)</c> (Dao et al., arXiv 2205.14135, algorithm 4),
/// so that neither pass holds more scores than those of one chunk.
/// </summary>
internal static class OnlineAttention
{
    // A finite stand-in for minus infinity as the first running maximum, so that differences from it are never NaN.
    private const double LowestMaximum = -1e30;

    /// <summary>Mixes values; arguments and result as those of <see cref="ScaledDotProduct.Apply"/>.</summary>
    public static Tensor Apply(Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, double dropout)
    {
        if (dropout == 0 && is_grad_enabled())
        {
            return Recomputed.apply(query, key, value, visible, options);
        }

        using var scope = NewDisposeScope();
        return Forward(query, key, value, visible, options, dropout).Output.MoveToOuterDisposeScope();
    }

    /// <returns>The result [B, H, T, V] in the dtype of the values, and the log-sum-exp of each query's scores [B, H, T, 1].</returns>
    private static (Tensor Output, Tensor LogSumExp) Forward(
        Tensor query, Tensor key, Tensor value, KeyVisibility visible, AttentionOptions options, double dropout)
    {
        using var scope = NewDisposeScope();
        var (outputs, logarithms) = (new List<Tensor>(), new List<Tensor>());
        foreach (var block in AttentionBlock.Split(query, key, value, visible, options, options.ChunkSize))
        {
            using var inner = NewDisposeScope();
            var (output, logarithm) = Forward(block, options.ChunkSize, dropout);
            outputs.Add(output.to_type(value.dtype).MoveToOuterDisposeScope());
            logarithms.Add(logarithm.MoveToOuterDisposeScope());
        }

        return (cat(outputs, 2).MoveToOuterDisposeScope(), cat(logarithms, 2).MoveToOuterDisposeScope());
    }

    private static (Tensor Output, Tensor LogSumExp) Forward(AttentionBlock block, long chunk, double dropout)
    {
        var scaledQuery = block.ScaledQuery();
        Tensor? maximum = null, sum = null, mixed = null;
        foreach (var (first, count) in block.KeyChunks(chunk))
        {
            using var inner = NewDisposeScope();
            var scores = block.MaskedScores(scaledQuery, first, count);

            // The result does not depend on the maximum, so neither does the gradient.
            var highest = scores.detach().amax([-1], keepdim: true);
            var next = maximum is null ? highest.clamp_min(LowestMaximum) : maximum.maximum(highest);
            var weights = (scores - next).exp();
            var total = weights.sum(-1, keepdim: true);
            var added = functional.dropout(weights, dropout).matmul(block.Values(first, count));
            if (maximum is not null)
            {
                var decay = (maximum - next).exp();
                (total, added) = (total + (sum! * decay), added + (mixed! * decay));
            }

            (maximum, sum, mixed) = (next.MoveToOuterDisposeScope(), total.MoveToOuterDisposeScope(), added.MoveToOuterDisposeScope());
        }

        return (block.Ungroup(mixed! / sum!), block.Ungroup(maximum! + sum!.log()));
    }

    /// <summary>The forward pass unrecorded; a backward pass that keeps the result and the log-sum-exp of each query, and no scores.</summary>
    private sealed class Recomputed : autograd.SingleTensorFunction<Recomputed>
    {
        public override string Name => "OnlineAttention";

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (query, key, value) = ((Tensor)vars[0], (Tensor)vars[1], (Tensor)vars[2]);
            var (visible, options) = ((KeyVisibility)vars[3], (AttentionOptions)vars[4]);
            using var guard = no_grad();
            var (output, logSumExp) = Forward(query, key, value, visible, options, 0);

            // The result itself would hold its own node, which holds it.
            ctx.save_for_backward([query, key, value, output.detach(), logSumExp, .. visible.Tensors]);
            ctx.save_data(nameof(KeyVisibility), visible);
            ctx.save_data(nameof(AttentionOptions), options);
            ctx.set_materialize_grads(false);
            return output;
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            using var scope = NewDisposeScope();
            var saved = ctx.get_saved_variables();
            var (query, key, value) = (saved[0], saved[1], saved[2]);
            var visible = ((KeyVisibility)ctx.get_data(nameof(KeyVisibility))).With(saved[5..]);
            var options = (AttentionOptions)ctx.get_data(nameof(AttentionOptions));

            // For second derivatives the result is computed again too: they go through it and the log-sum-exp.
            var (output, logSumExp) = is_grad_enabled() ? Forward(query, key, value, visible, options, 0) : (saved[3], saved[4]);
            var gradient = AttentionBlock.Wide(grad_output);
            var correction = (gradient * AttentionBlock.Wide(output)).sum(-1, keepdim: true);      // [B, H, T, 1]
            var queryGradients = new List<Tensor>();
            var (keyGradient, valueGradient) = (zeros_like(AttentionBlock.Wide(key)), zeros_like(AttentionBlock.Wide(value)));
            foreach (var block in AttentionBlock.Split(query, key, value, visible, options, options.ChunkSize))
            {
                using var inner = NewDisposeScope();
                var queryGradient = Backward(
                    block, options, block.Group(gradient), block.Group(logSumExp), block.Group(correction), keyGradient, valueGradient);
                queryGradients.Add(queryGradient.MoveToOuterDisposeScope());
            }

            return
            [
                cat(queryGradients, 2).to_type(query.dtype).MoveToOuterDisposeScope(),
                keyGradient.to_type(key.dtype).MoveToOuterDisposeScope(),
                valueGradient.to_type(value.dtype).MoveToOuterDisposeScope(),
                null!,
                null!,
            ];
        }

        /// <summary>
        /// With weights p and the gradient dO of a block: <c>dV += p^T dO</c>, <c>ds = p (dO V^T - sum(dO O))</c>, times
        /// <c>1 - (s / cap)^2</c> under a soft cap, <c>dQ = scale ds K</c>, <c>dK += scale ds^T Q</c>.
        /// </summary>
        private static Tensor Backward(
            AttentionBlock block, AttentionOptions options, Tensor gradient, Tensor logSumExp, Tensor correction, Tensor keyGradient, Tensor valueGradient)
        {
            var scaledQuery = block.ScaledQuery();
            Tensor? queryGradient = null;
            foreach (var (first, count) in block.KeyChunks(options.ChunkSize))
            {
                using var inner = NewDisposeScope();
                var scores = block.Scores(scaledQuery, first, count);
                var weights = (block.Masked(scores, first, count) - logSumExp).exp();
                valueGradient.narrow(2, first, count).add_(weights.transpose(-2, -1).matmul(gradient));

                var change = weights * (gradient.matmul(block.Values(first, count).transpose(-2, -1)) - correction);
                if (options.SoftCap is { } cap)
                {
                    change = change * (1 - (scores / cap).square());
                }

                keyGradient.narrow(2, first, count).add_(change.transpose(-2, -1).matmul(scaledQuery));
                var added = change.matmul(block.Keys(first, count)) * block.Scale;
                queryGradient = (queryGradient is null ? added : queryGradient + added).MoveToOuterDisposeScope();
            }

            return block.Ungroup(queryGradient!);
        }
    }
}
