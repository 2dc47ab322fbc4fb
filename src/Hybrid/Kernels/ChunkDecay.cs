using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The decay between every two steps of a chunk, <c>D_ji = exp(a_(j+1) + ... + a_i)</c> from step j to a step i after it, 1 on the diagonal
/// and zero where i is before j: the exponential of the segment sums of Mamba-2 (Dao and Gu, arXiv 2405.21060, listing 1), transposed.
/// </summary>
internal static class ChunkDecay
{
    /// <summary>Computes the decays. The sums are taken from each j on its own, since differences of one running sum would lose the small ones.</summary>
    /// <param name="logDecay">a [..., L], at most 0; minus infinity lets nothing pass.</param>
    /// <returns>D [..., L from, L to].</returns>
    public static Tensor Between(Tensor logDecay) =>
        logDecay.requires_grad && is_grad_enabled() ? Matrix.apply(logDecay) : Compute(logDecay);

    private static Tensor Compute(Tensor logDecay)
    {
        var shape = logDecay.shape;
        return logDecay.unsqueeze(-2).expand([.. shape, shape[^1]]).triu(1).cumsum(-1).exp_().triu_();
    }

    /// <summary>
    /// Autograd would keep two matrices and pass over ten. With <c>G = gradient * D</c>, a_k receives the sum of G_ji over j before k and i from
    /// k on: sums over j come first, then what is above the diagonal of row k - 1 is added up.
    /// </summary>
    private sealed class Matrix : autograd.SingleTensorFunction<Matrix>
    {
        public override string Name => "ChunkDecay";

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var decay = Compute((Tensor)vars[0]);
            ctx.save_for_backward([decay]);
            ctx.set_materialize_grads(false);
            return decay;
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            using var scope = NewDisposeScope();
            var upToRow = (grad_output * ctx.get_saved_variables()[0]).cumsum(-2).triu_(1);

            // The last row has nothing above the diagonal, so what goes round to the first step is zero.
            return [upToRow.sum(dim: -1).roll(1, -1).MoveToOuterDisposeScope()];
        }
    }
}
