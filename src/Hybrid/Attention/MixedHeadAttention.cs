using Hybrid.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Attention;

/// <summary>
/// Heads of several types in one layer, any mix in any order: <c>[q; k; v] = W_qkv x</c>, split into H heads of width K = D / H; each
/// head computes what its type says; <c>y = dropout(W_o concat(heads))</c>, plus x where asked. Standard heads are scaled dot-product
/// attention (Vaswani et al., arXiv 1706.03762) without positions, spectral heads a learned filter of their values, holonomy heads
/// attention whose queries and keys are turned by learned rotations.
/// </summary>
/// <remarks>
/// Spectral heads make no use of their queries and keys, which stay so that the order of the heads is a permutation of channels. Without
/// causality, packed rows and states are refused; padding is honoured.
/// </remarks>
public sealed class MixedHeadAttention : SequenceMixer
{
    private readonly MixedHeadOptions options;
    private readonly HeadType[] headTypes;
    private readonly long[] attentionHeads;
    private readonly long[] spectralHeads;
    private readonly long[] placesOfHeads;
    private readonly long standardCount;
    private readonly long headWidth;
    private readonly AttentionOptions scores = new();

    [ComponentName(Name = "qkv_proj")]
    private readonly Linear inProjection;

    [ComponentName(Name = "spectral")]
    private readonly SpectralFilter? filter;

    [ComponentName(Name = "spectral_layer")]
    private readonly SpectralSublayer? spectralLayer;

    [ComponentName(Name = "holonomy")]
    private readonly HolonomyRotation? rotation;

    [ComponentName(Name = "o_proj")]
    private readonly Linear outProjection;

    [ComponentName(Name = "dropout")]
    private readonly Dropout dropout;

    /// <param name="width">Model width D.</param>
    /// <param name="options">Heads and variants; null means the defaults.</param>
    /// <exception cref="ArgumentException">An option is out of its range or does not fit the width.</exception>
    public MixedHeadAttention(long width, MixedHeadOptions? options = null)
        : base(nameof(MixedHeadAttention), width)
    {
        this.options = options ??= new MixedHeadOptions();
        options.Validate(width);
        var isUpstream = options.Compat == MixedHeadCompat.Upstream;
        headTypes = isUpstream ? [.. options.HeadTypes.Order()] : [.. options.HeadTypes];
        headWidth = width / headTypes.Length;
        attentionHeads = [.. HeadsOf(HeadType.Standard), .. HeadsOf(HeadType.Holonomy)];
        spectralHeads = [.. HeadsOf(HeadType.Spectral)];
        standardCount = HeadsOf(HeadType.Standard).Count();
        var computed = attentionHeads.Concat(spectralHeads).ToArray();
        placesOfHeads = [.. Enumerable.Range(0, computed.Length).Select(head => (long)Array.IndexOf(computed, head))];

        inProjection = Linear(width, 3 * width);
        outProjection = Linear(width, width);
        dropout = Dropout(options.DropoutRate);
        if (spectralHeads.Length > 0 && isUpstream)
        {
            spectralLayer = new SpectralSublayer(spectralHeads.Length, headWidth, options.MaxSeqLen, options.DropoutRate);
        }
        else if (spectralHeads.Length > 0)
        {
            filter = new SpectralFilter(
                spectralHeads.Length, headWidth, options.SpectralBins, options.SpectralLags, options.UseDct, options.TokenGate);
        }

        if (attentionHeads.Length > standardCount)
        {
            rotation = new HolonomyRotation(width, attentionHeads.Length - standardCount, headWidth, options.Holonomy, isFree: isUpstream);
        }

        RegisterComponents();
    }

    /// <summary>The type of each head, in the order of their channels; in compat the groups that it makes.</summary>
    public IReadOnlyList<HeadType> HeadTypes => headTypes;

    /// <summary>Width K of a head.</summary>
    public long HeadWidth => headWidth;

    /// <summary>
    /// True where no output depends on a later input. In compat with spectral heads it is false even when <see cref="MixedHeadOptions.Causal"/>
    /// masks the attention heads: the filter goes around the whole row.
    /// </summary>
    public bool IsCausal => options.Causal && spectralLayer is null;

    /// <summary>Gains and phases of the spectral heads, and the matrices of the holonomy heads.</summary>
    public override IEnumerable<Parameter> ParametersWithoutWeightDecay =>
        [.. filter?.Curves ?? [], .. spectralLayer?.Curves ?? [], .. rotation?.Curvatures ?? []];

    /// <inheritdoc/>
    public override IEnumerable<Parameter> ResidualOutputWeights => [outProjection.weight];

    internal Linear InProjection => inProjection;

    internal Linear OutProjection => outProjection;

    internal SpectralFilter? Filter => filter;

    internal HolonomyRotation? Rotation => rotation;

    /// <summary>The parameters that heads of one type have besides the projections.</summary>
    internal IEnumerable<Parameter> ParametersOf(HeadType type) => type switch
    {
        HeadType.Spectral => filter?.parameters() ?? spectralLayer?.parameters() ?? [],
        HeadType.Holonomy => rotation?.parameters() ?? [],
        _ => [],
    };

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">The layer is not causal.</exception>
    public override MixerState CreateState(long batchSize)
    {
        ValidateBatchSize(batchSize);
        RequireCausal("carry no state");
        using var scope = NewDisposeScope();
        var (dtype, device) = (inProjection.weight.dtype, inProjection.weight.device);
        var precise = StatePrecision.Of(dtype);
        var parts = new List<MixerState>();
        if (attentionHeads.Length > 0)
        {
            parts.Add(KeyValueState.Create(batchSize, attentionHeads.Length, headWidth, options.MaxSeqLen, null, "none", dtype, device));
        }

        if (filter is not null)
        {
            parts.Add(new SpectralWindowState(
                zeros([batchSize, options.SpectralLags - 1, spectralHeads.Length * headWidth], dtype: precise, device: device)));
        }

        if (rotation is { AnglesOfAPath: > 0 and var angles })
        {
            parts.Add(new HolonomyPathState(zeros([batchSize, angles], dtype: precise, device: device)));
        }

        return new MixedHeadState(batchSize, parts);
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor x, MixerContext context)
    {
        using var scope = NewDisposeScope();
        var batch = MixerBatch.Begin(this, x, context, inProjection.weight.dtype);
        var heads = MixHeads(batch, context);
        var y = dropout.call(LinearStep.Apply(outProjection, heads.reshape(batch.Size, batch.Length, Width)));
        if (options.Residual ?? options.Compat == MixedHeadCompat.Upstream)
        {
            y = batch.Input + y;
        }

        return batch.End(y).MoveToOuterDisposeScope();
    }

    /// <summary>The outputs of the heads [B, T, H, K], before the output projection; the state of the context is advanced.</summary>
    internal Tensor MixHeads(MixerBatch batch, MixerContext context)
    {
        if (context.State is not null || context.SequenceIds is not null)
        {
            RequireCausal("carry no state and take no packed rows");
        }

        var state = RequireState<MixedHeadState>(context.State, batch.Size);
        state?.EnsureRoom(batch.Length, batch.Lengths);
        var projected = LinearStep.Apply(inProjection, batch.Input).view(batch.Size, batch.Length, 3, headTypes.Length, headWidth);
        var pieces = new List<Tensor>();                                                 // [B, T, heads of a kind, K]
        if (attentionHeads.Length > 0)
        {
            pieces.Add(Attend(Pick(projected, attentionHeads), batch, context, state));
        }

        if (spectralHeads.Length > 0)
        {
            pieces.Add(ApplyFilter(Pick(projected, spectralHeads), batch, context, state));
        }

        state?.Advance(batch.Length, batch.Lengths);
        return Select(cat(pieces, 2), 2, placesOfHeads);
    }

    /// <summary>Standard heads, then holonomy heads, which differ by the rotation alone.</summary>
    private Tensor Attend(Tensor projected, MixerBatch batch, MixerContext context, MixedHeadState? state)
    {
        var (query, key, value) = (Heads(0), Heads(1), Heads(2));                        // [B, H, T, K]
        if (rotation is not null)
        {
            var turning = attentionHeads.Length - standardCount;
            var (turnedQuery, turnedKey, angles) = rotation.Turn(
                query.narrow(1, standardCount, turning), key.narrow(1, standardCount, turning),
                batch.Input, state?.Positions ?? [0], batch.Mask, state?.PathAngles);
            query = cat([query.narrow(1, 0, standardCount), turnedQuery], 1);
            key = cat([key.narrow(1, 0, standardCount), turnedKey], 1);
            state?.Path?.Update(angles!, batch);
        }

        return (options.Causal ? AttendBackwards() : AttendAround()).transpose(1, 2);

        Tensor Heads(long part) => projected.select(2, part).transpose(1, 2);

        Tensor AttendBackwards()
        {
            var cache = state?.KeysAndValues;
            var visible = new KeyVisibility(
                cache?.Visible ?? [0], batch.Length, null, context.SequenceIds, query.device, context.PrefixLengths);
            var (allKeys, allValues) = cache?.Append(key, value) ?? (key, value);
            var mixed = ScaledDotProduct.Apply(query, allKeys, allValues, visible, scores, AttentionDropout);
            cache?.Advance(key, value, batch.Lengths);
            return mixed;
        }

        Tensor AttendAround() =>
            functional.scaled_dot_product_attention(query, key, value, batch.Mask?.unsqueeze(1).unsqueeze(1), AttentionDropout);
    }

    private Tensor ApplyFilter(Tensor projected, MixerBatch batch, MixerContext context, MixedHeadState? state)
    {
        if (spectralLayer is not null)
        {
            return spectralLayer.Run(projected.select(2, 0), batch.Lengths);
        }

        var values = projected.select(2, 2);                                             // [B, T, H, K]
        if (!options.Causal)
        {
            return filter!.Whole(values, batch.Lengths);
        }

        var mixed = filter!.Causal(values, state?.SpectralWindow, context.SequenceIds);
        if (state?.Window is { } window)
        {
            window.Update(SpectralFilter.NextWindow(values, window.Value, batch.Lengths), batch);
        }

        return mixed;
    }

    private double AttentionDropout => training ? options.DropoutRate : 0;

    private IEnumerable<long> HeadsOf(HeadType type) =>
        Enumerable.Range(0, headTypes.Length).Where(head => headTypes[head] == type).Select(head => (long)head);

    private static Tensor Pick(Tensor projected, long[] heads) => Select(projected, 3, heads);

    /// <summary>Some entries of a dimension in the order given: a view where they are consecutive.</summary>
    private static Tensor Select(Tensor x, long dimension, long[] entries) =>
        entries.Select((entry, i) => entry - i).Distinct().Count() == 1
            ? x.narrow(dimension, entries[0], entries.Length)
            : x.index_select(dimension, tensor(entries, dtype: ScalarType.Int64).to(x.device));

    private void RequireCausal(string what)
    {
        if (!options.Causal || options.Compat == MixedHeadCompat.Upstream)
        {
            throw new NotSupportedException(
                $"{GetName()}: heads that see the whole row (Causal of false, or Compat of Upstream) {what}.");
        }
    }
}
