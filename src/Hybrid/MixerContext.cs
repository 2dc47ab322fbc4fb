using Hybrid.Kernels;
using static TorchSharp.torch;

namespace Hybrid;

/// <summary>On which side of a row its padding stands.</summary>
public enum PaddingSide
{
    /// <summary>Real tokens first, padding after them.</summary>
    Right,

    /// <summary>Padding first, real tokens after it.</summary>
    Left,
}

/// <summary>What a forward pass needs to know besides its input: the carried state, padding, packed rows, prefixes.</summary>
public sealed record MixerContext
{
    /// <summary>No state, no padding, one sequence a row.</summary>
    public static MixerContext None { get; } = new();

    /// <summary>The state that the input continues and that is advanced; null carries nothing.</summary>
    public MixerState? State { get; init; }

    /// <summary>
    /// Number of real tokens of each row, 1..T; null means that every row is full. The other positions are padding, on the side of
    /// <see cref="PaddingSide"/>: they do not reach real tokens or the state, and their outputs are zero.
    /// </summary>
    public IReadOnlyList<long>? Lengths { get; init; }

    /// <summary>Side of the padding that <see cref="Lengths"/> leaves. Default: right.</summary>
    public PaddingSide PaddingSide { get; init; } = PaddingSide.Right;

    /// <summary>
    /// Packed rows: int64 [B, T], equal and adjacent for the tokens of one sequence. Each sequence of a row is mixed as if it were
    /// alone. Excludes <see cref="State"/> and <see cref="Lengths"/>. Null means one sequence a row.
    /// </summary>
    public Tensor? SequenceIds { get; init; }

    /// <summary>
    /// A prefix of each row, in tokens, 0 to all of the row's: attention lets these first tokens see each other in both directions (a prefix
    /// language model: Raffel et al., arXiv 1910.10683), a prompt or an image for example; the tokens after them stay causal. Layers that are
    /// recurrent read the prefix like any tokens. The call must begin the sequences and hold the whole prefix; calls that continue
    /// them have none. Excludes <see cref="SequenceIds"/>. Null, the default, means no prefix: causal throughout.
    /// </summary>
    public IReadOnlyList<long>? PrefixLengths { get; init; }

    /// <summary>
    /// Receives the scalars that layers want added to the training loss, each with its factor (the load losses of experts and of an adaptive
    /// parallel hybrid), in no dispose scope: the caller frees them. Null, the default, computes none.
    /// </summary>
    public ICollection<Tensor>? AuxiliaryLosses { get; init; }

    /// <summary>What entered the first layer of the stack [B, T, D], for layers that read it again (Zamba2); null outside a stack.</summary>
    internal Tensor? StackInput { get; init; }

    /// <summary>Where the layers of a stack write while it decodes token by token; null where each call makes its own tensors.</summary>
    internal StepBuffers? Buffers { get; init; }

    /// <summary>The same context for a layer with its own state.</summary>
    /// <param name="state">The layer's state.</param>
    /// <returns>A context with <paramref name="state"/> in place of the present one.</returns>
    public MixerContext WithState(MixerState? state) => ReferenceEquals(state, State) ? this : this with { State = state };
}
