using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>
/// The spectral heads of <see cref="MixedHeadCompat.Upstream"/>: over the queries x of these heads, E = H K wide, a whole layer
/// <c>x + dropout(W_o filter(W_v x))</c> with a circular filter. W_v is the last third of a joint projection, whose other thirds have no use.
/// </summary>
internal sealed class SpectralSublayer : nn.Module
{
    private readonly long heads;
    private readonly long headWidth;

    [ComponentName(Name = "qkv_proj")]
    private readonly Linear inProjection;

    [ComponentName(Name = "o_proj")]
    private readonly Linear outProjection;

    [ComponentName(Name = "filter")]
    private readonly SpectralFilter filter;

    [ComponentName(Name = "dropout")]
    private readonly Dropout dropout;

    /// <param name="heads">Spectral heads H.</param>
    /// <param name="headWidth">Width K of a head.</param>
    /// <param name="maxSeqLen">Length T whose T / 2 + 1 frequencies are learned.</param>
    /// <param name="dropoutRate">Dropout on the output while training.</param>
    public SpectralSublayer(long heads, long headWidth, long maxSeqLen, double dropoutRate)
        : base(nameof(SpectralSublayer))
    {
        (this.heads, this.headWidth) = (heads, headWidth);
        inProjection = Linear(heads * headWidth, 3 * heads * headWidth);
        outProjection = Linear(heads * headWidth, heads * headWidth);
        filter = new SpectralFilter(heads, headWidth, (maxSeqLen / 2) + 1, maxSeqLen, useDct: false, useTokenGate: false, isPinned: false);
        dropout = Dropout(dropoutRate);
        RegisterComponents();
    }

    /// <summary>Gains and phases.</summary>
    public IEnumerable<Parameter> Curves => filter.Curves;

    /// <summary>Runs the layer.</summary>
    /// <param name="x">[B, T, H, K].</param>
    /// <param name="lengths">Real tokens of each right-padded row, or null.</param>
    /// <returns>[B, T, H, K].</returns>
    public Tensor Run(Tensor x, IReadOnlyList<long>? lengths)
    {
        using var scope = NewDisposeScope();
        var shape = x.shape;
        var joined = x.reshape(shape[0], shape[1], heads * headWidth);
        var values = inProjection.call(joined).view(shape[0], shape[1], 3, heads, headWidth).select(2, 2);
        var mixed = filter.Whole(values, lengths).reshape(shape[0], shape[1], heads * headWidth);
        return (joined + dropout.call(outProjection.call(mixed))).view(shape).MoveToOuterDisposeScope();
    }
}
