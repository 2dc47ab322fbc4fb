using Hybrid.Kernels;
using Hybrid.Layers;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Mixers;

/// <summary>Options of <see cref="DeltaNetMixer"/>.</summary>
public sealed record DeltaNetOptions
{
    /// <summary>Heads H; at least 1. Default 4.</summary>
    public long NumHeads { get; init; } = 4;

    /// <summary>Width K of the queries, keys and values of a head; at least 1. Null means D / H, which must divide.</summary>
    public long? HeadDim { get; init; }

    /// <summary>Short convolutions on queries, keys and values before their SiLU. Default true.</summary>
    public bool UseShortConv { get; init; } = true;

    /// <summary>Taps W of the short convolutions; at least 1. Default 4.</summary>
    public long DConv { get; init; } = 4;

    /// <summary>Adds biases to the short convolutions. Default false.</summary>
    public bool UseConvBias { get; init; }

    /// <summary>Doubles beta to 0..2, so that a step can also reverse what it reads (Grazzi et al., arXiv 2411.12537). Default false.</summary>
    public bool AllowNegativeEigenvalues { get; init; }

    /// <summary>Epsilon of the output norm. Default 1e-5.</summary>
    public double NormEps { get; init; } = 1e-5;

    /// <summary>The width of a head for a model width.</summary>
    /// <param name="width">Model width D.</param>
    /// <returns><see cref="HeadDim"/> or D / H.</returns>
    /// <exception cref="ArgumentException">H does not divide D and no head width is given.</exception>
    public long ResolveHeadDim(long width) => HeadDim ?? (width % NumHeads == 0
        ? width / NumHeads
        : throw new ArgumentException(
            $"DeltaNetOptions.NumHeads must divide the width {width} where HeadDim is not given; got {NumHeads}.", nameof(width)));

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(DeltaNetOptions), nameof(NumHeads), NumHeads, 1);
        OptionRange.AtLeast(nameof(DeltaNetOptions), nameof(HeadDim), HeadDim ?? 1, 1);
        OptionRange.AtLeast(nameof(DeltaNetOptions), nameof(DConv), DConv, 1);
        OptionRange.Positive(nameof(DeltaNetOptions), nameof(NormEps), NormEps);
    }
}

/// <summary>State of a <see cref="DeltaNetMixer"/>: the windows of the convolutions, where there are any, and the recurrent state.</summary>
public sealed class DeltaNetState : MixerState
{
    private readonly bool hasWindows;

    internal DeltaNetState(Tensor recurrent)
        : base(recurrent.size(0), ("delta", recurrent))
    {
    }

    internal DeltaNetState(Tensor recurrent, Tensor query, Tensor key, Tensor value)
        : base(recurrent.size(0), ("delta", recurrent), ("conv_q", query), ("conv_k", key), ("conv_v", value)) => hasWindows = true;

    /// <summary>The state S: [B, H, K, K], keys by values, float32 (float64 with float64 weights).</summary>
    public Tensor Recurrent => this[0];

    /// <summary>The last W - 1 projected queries, keys and values, oldest first: [B, W - 1, H K] each; empty without convolutions.</summary>
    public IReadOnlyList<Tensor> Windows => hasWindows ? [this[1], this[2], this[3]] : [];

    internal void Update(Tensor recurrent, params Tensor[] windows)
    {
        Set(0, recurrent);
        for (var i = 0; i < windows.Length; i++)
        {
            Set(i + 1, windows[i]);
        }
    }
}

/// <summary>
/// DeltaNet (Yang et al., arXiv 2406.06484): linear attention that corrects what its state holds for a key in place of adding to it.
/// <c>q, k, v = SiLU(conv(W x))</c>, q and k of unit length, <c>beta = sigmoid(W_b x)</c>, per head
/// <c>S_t = S_(t-1) + k_t beta_t (v_t - S_(t-1)^T k_t)^T</c> and <c>o_t = S_t^T q_t / sqrt(K)</c>; an RMS norm of each head; <c>W_o</c>.
/// Parameter names are those of flash-linear-attention checkpoints.
/// </summary>
public sealed class DeltaNetMixer : SequenceMixer
{
    private readonly DeltaNetOptions options;
    private readonly long headWidth;
    private readonly long inner;

    [ComponentName(Name = "q_proj")]
    private readonly Linear queryProjection;

    [ComponentName(Name = "k_proj")]
    private readonly Linear keyProjection;

    [ComponentName(Name = "v_proj")]
    private readonly Linear valueProjection;

    [ComponentName(Name = "b_proj")]
    private readonly Linear betaProjection;

    [ComponentName(Name = "q_conv1d")]
    private readonly ShortConvolution? queryConvolution;

    [ComponentName(Name = "k_conv1d")]
    private readonly ShortConvolution? keyConvolution;

    [ComponentName(Name = "v_conv1d")]
    private readonly ShortConvolution? valueConvolution;

    [ComponentName(Name = "o_norm")]
    private readonly RmsNorm outputNorm;

    [ComponentName(Name = "o_proj")]
    private readonly Linear outProjection;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Sizes and variants; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range, or H does not divide D.</exception>
    public DeltaNetMixer(long width, DeltaNetOptions? options = null)
        : base(nameof(DeltaNetMixer), width)
    {
        this.options = options ??= new DeltaNetOptions();
        options.Validate();
        headWidth = options.ResolveHeadDim(width);
        inner = options.NumHeads * headWidth;

        queryProjection = Linear(width, inner, hasBias: false);
        keyProjection = Linear(width, inner, hasBias: false);
        valueProjection = Linear(width, inner, hasBias: false);
        betaProjection = Linear(width, options.NumHeads, hasBias: false);
        if (options.UseShortConv)
        {
            queryConvolution = new ShortConvolution(inner, options.DConv, options.UseConvBias);
            keyConvolution = new ShortConvolution(inner, options.DConv, options.UseConvBias);
            valueConvolution = new ShortConvolution(inner, options.DConv, options.UseConvBias);
        }

        outputNorm = new RmsNorm(headWidth, options.NormEps);
        outProjection = Linear(inner, width, hasBias: false);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    /// <inheritdoc/>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        using var scope = NewDisposeScope();
        var weight = queryProjection.weight;
        var type = weight.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var recurrent = zeros([batchSize, options.NumHeads, headWidth, headWidth], dtype: type, device: weight.device);
        return options.UseShortConv ? new DeltaNetState(recurrent, Window(), Window(), Window()) : new DeltaNetState(recurrent);

        Tensor Window() => zeros([batchSize, options.DConv - 1, inner], dtype: weight.dtype, device: weight.device);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, queryProjection.weight.dtype);
        var state = RequireState<DeltaNetState>(context.State, batch.Size);

        var windows = new List<Tensor>();
        var q = Features(queryProjection, queryConvolution, 0);                          // [B, T, H, K] each
        var k = Features(keyProjection, keyConvolution, 1);
        var v = Features(valueProjection, valueConvolution, 2);
        var beta = LinearStep.Apply(betaProjection, batch.Input).sigmoid();              // [B, T, H]
        if (options.AllowNegativeEigenvalues)
        {
            beta = beta * 2;
        }

        var (o, recurrent) = GatedDelta.Apply(
            q, k, v, beta, normalise: true, initialState: state?.Recurrent, mask: batch.Mask,
            restart: PackedRows.Restarts(context.SequenceIds), stateGradient: false);

        state?.Update(recurrent, [.. windows]);
        state?.Advance(batch.Length, batch.Lengths);
        return batch.End(LinearStep.Apply(outProjection, outputNorm.call(o).flatten(2))).MoveToOuterDisposeScope();

        Tensor Features(Linear projection, ShortConvolution? convolution, int place)
        {
            var projected = LinearStep.Apply(projection, batch.Input);                   // [B, T, H K]
            if (convolution is null)
            {
                return Heads(projected.silu());
            }

            var (convolved, window) = convolution.forward(projected, state?.Windows[place], batch.Lengths, context.SequenceIds);
            windows.Add(window);
            return Heads(convolved);
        }

        Tensor Heads(Tensor features) => features.view(batch.Size, batch.Length, options.NumHeads, headWidth);
    }
}
