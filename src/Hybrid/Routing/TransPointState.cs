using Hybrid.Attention;
using Hybrid.Checkpoints;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>
/// State of a <see cref="TransPointMixer"/>. A sequence before its TransPoint P has keys and values; when it has consumed P tokens the
/// memory converter makes its recurrent state, which is all that it has from then on. Once every sequence has crossed, the keys and
/// values are freed.
/// </summary>
public sealed class TransPointState : MixerState
{
    private readonly TransPointMixer mixer;

    internal TransPointState(TransPointMixer mixer, Tensor convolution, Tensor recurrent, KeyValueState? cache)
        : base(recurrent.size(0), ("conv", convolution), ("ssm", recurrent)) => (this.mixer, Cache) = (mixer, cache);

    /// <summary>The last W - 1 inputs of the convolution (V, K, Q), oldest first: [B, W - 1, E + 2 G N] in the dtype of the weights.</summary>
    public Tensor Convolution => this[0];

    /// <summary>The recurrent state: [B, H, K, N], float32 (float64 with float64 weights); zero for sequences before their TransPoint.</summary>
    public Tensor Recurrent => this[1];

    /// <summary>
    /// Tokens of the sequences up to their TransPoint: keys [B, G, S, N] after rotary embedding, and values [B, G, S, H/G (K + 1)], the
    /// step sizes of the group's heads, before bias and softplus, standing behind their values. Null once every sequence has crossed.
    /// </summary>
    public KeyValueState? Cache { get; private set; }

    /// <inheritdoc/>
    public override long ByteSize => base.ByteSize + (Cache?.ByteSize ?? 0);

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Tensor)> NamedTensors => base.NamedTensors.Concat(Cache?.NamedTensors ?? []);

    /// <inheritdoc/>
    public override MixerState Clone()
    {
        var copy = (TransPointState)base.Clone();
        copy.Cache = (KeyValueState?)Cache?.Clone();
        return copy;
    }

    /// <inheritdoc/>
    public override MixerState Select(IReadOnlyList<long> rows)
    {
        var copy = (TransPointState)base.Select(rows);
        copy.Cache = copy.HaveAllCrossed ? null : (KeyValueState?)Cache?.Select(rows);
        return copy;
    }

    internal void Update(Tensor convolution, Tensor recurrent)
    {
        Set(0, convolution);
        if (!ReferenceEquals(recurrent, Recurrent))
        {
            Set(1, recurrent);
        }
    }

    /// <inheritdoc/>
    protected internal override void Advance(long count, IReadOnlyList<long>? lengths)
    {
        Cache?.Advance(0, [.. Positions.Select((start, row) => Math.Min(mixer.TokensBefore(start), lengths?[row] ?? count))]);
        base.Advance(count, lengths);
        if (HaveAllCrossed)
        {
            Cache?.Dispose();
            Cache = null;
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            Cache?.Dispose();
        }

        base.Dispose(disposing);
    }

    internal override void AddMetadata(Dictionary<string, string> metadata, string prefix)
    {
        metadata[prefix + "trans_point"] = $"{mixer.TransPoint}";
        Cache?.AddMetadata(metadata, prefix);
    }

    internal override Action PrepareRestore(StateReader reader, string prefix, long[] newPositions)
    {
        if (reader.Metadata(prefix + "trans_point") is var found && found != $"{mixer.TransPoint}")
        {
            throw reader.Mismatch($"a state with its TransPoint at {mixer.TransPoint}", found ?? "none");
        }

        var commit = base.PrepareRestore(reader, prefix, newPositions);
        if (newPositions.All(position => mixer.TokensBefore(position) == 0))
        {
            return () => Replace(commit, null);
        }

        var cache = mixer.CreateCache(BatchSize);
        try
        {
            var commitCache = cache.PrepareRestore(reader, prefix, [.. newPositions.Select(position => Math.Min(position, mixer.TransPoint))]);
            return () => Replace(commit + commitCache, cache);
        }
        catch
        {
            cache.Dispose();
            throw;
        }
    }

    private bool HaveAllCrossed => Positions.All(position => mixer.TokensBefore(position) == 0);

    private void Replace(Action commit, KeyValueState? cache)
    {
        commit();
        Cache?.Dispose();
        Cache = cache;
    }
}
