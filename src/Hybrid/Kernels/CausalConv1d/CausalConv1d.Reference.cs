using Hybrid.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Kernels;

public static partial class CausalConv1d
{
    /// <summary>The convolution as a sum of W shifted, scaled copies: plain tensor operations, differentiable by autograd.</summary>
    internal static (Tensor Y, Tensor FinalState) Reference(
        Tensor x, Tensor weight, Tensor? bias, Activation activation, Tensor? initialState, IReadOnlyList<long>? lengths, Tensor? sequenceIds)
    {
        var shape = x.shape;
        var (batch, time, channels, width) = (shape[0], shape[1], shape[2], weight.size(1));
        var history = initialState?.to_type(x.dtype) ?? zeros([batch, width - 1, channels], dtype: x.dtype, device: x.device);
        var extended = cat([history, x], 1);                                             // [B, W - 1 + T, E]
        var taps = weight.unbind(1);                                                     // W x [E]

        var sum = x * taps[width - 1];
        for (var k = 0; k < width - 1; k++)
        {
            var shifted = extended.narrow(1, k, time);
            if (sequenceIds is not null)
            {
                shifted = shifted * PackedRows.SameSequence(sequenceIds, width - 1 - k).to_type(x.dtype).unsqueeze(-1);
            }

            sum = sum.addcmul(shifted, taps[k], 1);
        }

        return (activation.Apply(bias is null ? sum : sum + bias), LastInputs(extended, width - 1, time, lengths));
    }

    /// <summary>The window that ends at the last real token of each row; it reaches into the history of a short row.</summary>
    internal static Tensor LastInputs(Tensor extended, long count, long time, IReadOnlyList<long>? lengths)
    {
        if (lengths is null)
        {
            return extended.narrow(1, time, count);
        }

        var first = tensor(lengths.ToArray(), dtype: ScalarType.Int64).to(extended.device).view(-1, 1, 1);
        var offsets = arange(count, dtype: ScalarType.Int64, device: extended.device).view(1, -1, 1);
        return extended.gather(1, (first + offsets).expand(extended.size(0), count, extended.size(2)));
    }
}
