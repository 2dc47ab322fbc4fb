using Hybrid.Kernels;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace Hybrid.Layers;

/// <summary>
/// The causal depthwise convolution in front of a recurrence. Weights have the checkpoint names and shapes of a grouped Conv1d:
/// weight [E, 1, W], bias [E].
/// </summary>
public sealed class ShortConvolution : nn.Module<Tensor, Tensor>
{
    [ComponentName(Name = "weight")]
    private readonly Parameter weight;

    [ComponentName(Name = "bias")]
    private readonly Parameter? bias;

    /// <param name="channels">Channels E.</param>
    /// <param name="width">Taps W; at least 1.</param>
    /// <param name="hasBias">Adds a bias.</param>
    /// <param name="activation">Applied to the output.</param>
    public ShortConvolution(long channels, long width, bool hasBias = true, Activation activation = Activation.Silu)
        : base(nameof(ShortConvolution))
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(channels, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        Channels = channels;
        KernelWidth = width;
        Activation = activation;

        // The initialisation of a depthwise Conv1d, whose fan-in is W.
        var bound = 1 / Math.Sqrt(width);
        using var scope = NewDisposeScope();
        weight = ModuleParameter.Make(() => empty(channels, 1, width).uniform_(-bound, bound), channels, 1, width);
        bias = hasBias ? ModuleParameter.Own(empty(channels).uniform_(-bound, bound)) : null;
        RegisterComponents();
    }

    /// <summary>Channels E.</summary>
    public long Channels { get; }

    /// <summary>Taps W; the state holds W - 1 inputs.</summary>
    public long KernelWidth { get; }

    /// <summary>The activation of the output.</summary>
    public Activation Activation { get; }

    /// <summary>False keeps to plain tensor operations. Default true.</summary>
    public bool UseFusedKernels { get; init; } = true;

    /// <summary>Taps [E, 1, W], oldest first.</summary>
    internal Parameter Weight => weight;

    /// <summary>Bias [E], or null.</summary>
    internal Parameter? Bias => bias;

    /// <summary>Convolves without carrying state.</summary>
    /// <param name="input">[B, T, E].</param>
    /// <returns>[B, T, E].</returns>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        return forward(input, null).Y.MoveToOuterDisposeScope();
    }

    /// <summary>Convolves from a state; see <see cref="CausalConv1d.Apply"/>.</summary>
    /// <param name="input">[B, T, E].</param>
    /// <param name="state">The last W - 1 inputs [B, W - 1, E], or null.</param>
    /// <param name="lengths">Real tokens of each row, or null.</param>
    /// <param name="sequenceIds">Packed rows: int64 [B, T], or null.</param>
    /// <returns>Output [B, T, E] and the state after the last real token.</returns>
    public (Tensor Y, Tensor FinalState) forward(
        Tensor input, Tensor? state, IReadOnlyList<long>? lengths = null, Tensor? sequenceIds = null)
    {
        using var taps = weight.squeeze(1);
        return CausalConv1d.Apply(input, taps, bias, Activation, state, lengths, sequenceIds, UseFusedKernels);
    }
}
