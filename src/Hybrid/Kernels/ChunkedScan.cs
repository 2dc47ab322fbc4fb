using static TorchSharp.torch;

namespace Hybrid.Kernels;

/// <summary>
/// The two halves of <c>h_t = a_t h_(t-1) + b_t</c> over chunks of time, element by element, for any shape of state: every chunk from a
/// zero state, side by side; then the states from chunk to chunk.
/// </summary>
internal static class ChunkedScan
{
    /// <summary>Every chunk from a zero state.</summary>
    /// <param name="inputs">b of each step of a chunk, for all chunks.</param>
    /// <param name="decays">a of each step, of the same shape.</param>
    /// <returns>The state after each step, and the product of the decays up to it.</returns>
    public static (Tensor[] Local, Tensor[] Passed) InsideChunks(Tensor[] inputs, Tensor[] decays)
    {
        var (local, passed) = (new Tensor[inputs.Length], new Tensor[inputs.Length]);
        (local[0], passed[0]) = (inputs[0], decays[0]);
        for (var i = 1; i < inputs.Length; i++)
        {
            local[i] = inputs[i].addcmul(decays[i], local[i - 1], 1);
            passed[i] = decays[i] * passed[i - 1];
        }

        return (local, passed);
    }

    /// <summary>Hands states from chunk to chunk.</summary>
    /// <param name="local">The last state of each chunk that started from zero: [B, chunks, ...].</param>
    /// <param name="passed">The decay over each whole chunk: [B, chunks, ...], of a shape that broadcasts.</param>
    /// <param name="state">The state before the first chunk: [B, ...].</param>
    /// <returns>The state that enters each chunk [B, chunks, ...], and the one after the last [B, ...].</returns>
    public static (Tensor Entering, Tensor FinalState) Chain(Tensor local, Tensor passed, Tensor state)
    {
        // unbind, not indexing: the gradient of a slice is a tensor of the full size, that of unbind is one stack.
        var (locals, decays) = (local.unbind(1), passed.unbind(1));
        var entering = new Tensor[locals.Length];
        for (var i = 0; i < locals.Length; i++)
        {
            entering[i] = state;
            state = locals[i].addcmul(decays[i], state, 1);
        }

        return (stack(entering, 1), state);
    }
}
