using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid;

/// <summary>A mixer that normalises its own input; a residual block around it has no norm for it.</summary>
internal interface INormalisingMixer;

/// <summary>A mixer whose decoding step ends in a matrix-vector product that can add the residual stream.</summary>
internal interface IResidualStep
{
    /// <summary>Mixes one token a sequence.</summary>
    /// <param name="x">Input [B, 1, D].</param>
    /// <param name="context">With a state.</param>
    /// <param name="residual">Added to the output, or null.</param>
    /// <returns>Output [B, 1, D]; null, with the state as it was, where the step cannot run and <c>forward</c> has to.</returns>
    Tensor? Step(Tensor x, MixerContext context, Tensor? residual);
}

/// <summary>
/// A causal sequence layer: <c>[B, T, D] -> [B, T, D]</c>, where <c>y[:, t]</c> depends only on <c>x[:, ..t]</c> and the state.
/// Mamba, attention, the router between them and every layer that a user adds derive from this class; backbones and language models
/// see nothing else.
/// </summary>
/// <remarks>
/// The one exception to causality is asked for by the caller: the tokens of a prefix (<see cref="MixerContext.PrefixLengths"/>).
/// One method serves training (no state), prefill and continuation (state, T &gt; 1) and decoding (state, T = 1).
/// A mixer keeps no per-sequence data in fields: one module may serve many sequences, from several threads under <c>no_grad</c>.
/// Letters used throughout: B batch rows, T time, D model width, E inner width, N state size, H heads, K head width.
/// </remarks>
public abstract class SequenceMixer : nn.Module<Tensor, Tensor>
{
    /// <param name="name">Name of the module, used in error texts.</param>
    /// <param name="width">Model width D; at least 1.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="width"/> is below 1.</exception>
    protected SequenceMixer(string name, long width)
        : base(name)
    {
        if (width < 1)
        {
            throw new ArgumentOutOfRangeException(nameof(width), width, $"{name}: the width must be at least 1; got {width}.");
        }

        Width = width;
    }

    /// <summary>Model width D: the size of the last dimension of input and output.</summary>
    public long Width { get; }

    /// <summary>Creates the state of <paramref name="batchSize"/> sequences that have seen no token yet.</summary>
    /// <param name="batchSize">Number of sequences B; at least 1.</param>
    /// <returns>A state on the device of the weights; the caller disposes it.</returns>
    public abstract MixerState CreateState(long batchSize);

    /// <summary>Mixes a batch without carrying state: <see cref="forward(Tensor, MixerContext)"/> with <see cref="MixerContext.None"/>.</summary>
    /// <param name="x">Input [B, T, D].</param>
    /// <returns>Output [B, T, D].</returns>
    public sealed override Tensor forward(Tensor x) => forward(x, MixerContext.None);

    /// <summary>Mixes a batch. With a state, <paramref name="x"/> continues the sequences of the state, which is advanced.</summary>
    /// <param name="x">Input [B, T, D], T at least 1, in the dtype and on the device of the weights.</param>
    /// <param name="context">State, padding and packing; what a mixer cannot honour it refuses with an exception.</param>
    /// <returns>Output [B, T, D]; values at padded positions are zero.</returns>
    /// <exception cref="ArgumentException">The shape, dtype or context does not fit.</exception>
    /// <exception cref="NotSupportedException">The mixer cannot honour something in the context.</exception>
    public abstract Tensor forward(Tensor x, MixerContext context);

    /// <summary>Parameters that train without weight decay besides biases and norms: decay rates and step-size biases, for example.</summary>
    public virtual IEnumerable<Parameter> ParametersWithoutWeightDecay => [];

    /// <summary>
    /// Weights that write into the residual stream. A language model scales them down by 1 / sqrt(number of residual branches) when it
    /// initialises, so that the stream does not grow with depth (Radford et al., GPT-2).
    /// </summary>
    public virtual IEnumerable<Parameter> ResidualOutputWeights => [];

    /// <summary>Throws unless <paramref name="batchSize"/> is at least 1.</summary>
    /// <param name="batchSize">The batch size handed to <see cref="CreateState"/>.</param>
    protected void ValidateBatchSize(long batchSize)
    {
        if (batchSize < 1)
        {
            throw new ArgumentOutOfRangeException(
                nameof(batchSize), batchSize, $"{GetName()}: the batch size of a state must be at least 1; got {batchSize}.");
        }
    }

    /// <summary>Checks that <paramref name="state"/> is of the mixer's own kind and of the batch size of the input.</summary>
    /// <typeparam name="TState">The mixer's state type.</typeparam>
    /// <param name="state">The state of the context; null means that none is carried.</param>
    /// <param name="batchSize">Batch rows of the input.</param>
    /// <returns>The state, typed, or null.</returns>
    protected TState? RequireState<TState>(MixerState? state, long batchSize)
        where TState : MixerState
    {
        if (state is null)
        {
            return null;
        }

        if (state is not TState typed)
        {
            throw new ArgumentException(
                $"{GetName()}: the state must be a {typeof(TState).Name} made by CreateState; got a {state.GetType().Name}.", nameof(state));
        }

        if (typed.BatchSize != batchSize)
        {
            throw new ArgumentException(
                $"{GetName()}: the state holds {typed.BatchSize} sequences; the input has {batchSize} batch rows.", nameof(state));
        }

        return typed;
    }
}
