using Hybrid.Attention;
using Hybrid.Mixers;

namespace Hybrid.Backbone;

/// <summary>What the options that the mixers of a <see cref="BackboneOptions"/> share mean for each of them.</summary>
internal sealed class SharedMixerOptions
{
    private static readonly Dictionary<string, (string[] Uses, Func<BackboneOptions, object> Make)> Known = new(StringComparer.Ordinal)
    {
        [LayerPattern.AttentionName] = (
            [
                nameof(BackboneOptions.NumHeads), nameof(BackboneOptions.HeadDim), nameof(BackboneOptions.WindowSize),
                nameof(BackboneOptions.UseSlidingWindow), nameof(BackboneOptions.QkLayernorm), nameof(BackboneOptions.UseRope),
                nameof(BackboneOptions.ChunkedAttention), nameof(BackboneOptions.MemoryEfficientAttention), nameof(BackboneOptions.ChunkSize),
            ],
            Attention),
        ["mamba"] = (
            [nameof(BackboneOptions.StateSize), nameof(BackboneOptions.ExpandFactor), nameof(BackboneOptions.ConvSize)],
            shared => new MambaOptions { DState = shared.StateSize, ExpandFactor = shared.ExpandFactor, DConv = shared.ConvSize }),
        ["mamba2"] = (
            [nameof(BackboneOptions.StateSize), nameof(BackboneOptions.ExpandFactor), nameof(BackboneOptions.ConvSize), nameof(BackboneOptions.HeadDim)],
            shared => new Mamba2Options
            {
                DState = shared.StateSize, ExpandFactor = shared.ExpandFactor, DConv = shared.ConvSize, HeadDim = shared.HeadDim,
            }),
        ["delta_net"] = (
            [nameof(BackboneOptions.NumHeads), nameof(BackboneOptions.HeadDim), nameof(BackboneOptions.ConvSize)],
            shared => new DeltaNetOptions { NumHeads = shared.NumHeads, HeadDim = shared.HeadDim, DConv = shared.ConvSize }),
        ["gated_delta_net"] = (
            [nameof(BackboneOptions.NumHeads), nameof(BackboneOptions.HeadDim), nameof(BackboneOptions.ConvSize)],
            shared => new GatedDeltaNetOptions
            {
                NumKeyHeads = shared.NumHeads, KeyHeadDim = shared.HeadDim, ValueHeadDim = shared.HeadDim, DConv = shared.ConvSize,
            }),
        ["griffin_lru"] = ([nameof(BackboneOptions.ConvSize)], shared => new GriffinOptions { DConv = shared.ConvSize }),
        ["gated_ssm"] = ([nameof(BackboneOptions.ExpandFactor)], shared => new GatedSsmOptions { ExpandFactor = shared.ExpandFactor }),
    };

    private readonly BackboneOptions options;
    private readonly IReadOnlyList<string> names;

    /// <param name="options">The options.</param>
    /// <param name="pattern">Its pattern.</param>
    public SharedMixerOptions(BackboneOptions options, LayerPattern pattern)
    {
        this.options = options;
        names = [.. pattern.Mixers.Distinct()];
    }

    /// <summary>The options record of a mixer; null where it has its own defaults.</summary>
    public object? Of(string name) =>
        options.Mixers.TryGetValue(name, out var own) ? own : Known.TryGetValue(name, out var known) ? known.Make(options) : null;

    /// <summary>Throws where a shared option is set that no layer uses. A factory may use any of them.</summary>
    /// <exception cref="ArgumentException">An option differs from its default without effect.</exception>
    public void RequireUse()
    {
        if (names.Contains(LayerPattern.CustomName))
        {
            return;
        }

        var used = names.Where(name => !options.Mixers.ContainsKey(name) && Known.ContainsKey(name)).SelectMany(name => Known[name].Uses).ToHashSet();
        foreach (var option in Known.Values.SelectMany(known => known.Uses).Except(used))
        {
            var property = typeof(BackboneOptions).GetProperty(option)!;
            var (value, standard) = (property.GetValue(options), property.GetValue(BackboneOptions.RecommendedDefaults));
            if (!Equals(value, standard))
            {
                throw new ArgumentException(
                    $"BackboneOptions: {option} is {value}, but no layer takes it from here; the layers are {string.Join(", ", names)}.", option);
            }
        }
    }

    private static AttentionOptions Attention(BackboneOptions shared) => new()
    {
        NumHeads = shared.NumHeads,
        HeadDim = shared.HeadDim,
        WindowSize = shared.UseSlidingWindow ? shared.WindowSize : null,
        QkLayernorm = shared.QkLayernorm,
        UseRope = shared.UseRope,
        Mode = shared.MemoryEfficientAttention ? AttentionMode.Online : shared.ChunkedAttention ? AttentionMode.Chunked : AttentionMode.Dense,
        ChunkSize = shared.ChunkSize,
        MaxLength = shared.SeqLen,
    };
}
