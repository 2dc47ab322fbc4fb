namespace Hybrid.Backbone;

/// <summary>
/// What each layer of a stack is: a registered mixer name, <see cref="MlpName"/> or <see cref="ExpertsName"/>, one a layer.
/// </summary>
public sealed class LayerPattern
{
    /// <summary>The name that stands for attention in the patterns below.</summary>
    public const string AttentionName = "attention";

    /// <summary>The name of a layer that is a feed-forward layer alone, without a mixer.</summary>
    public const string MlpName = "mlp";

    /// <summary>The name of a layer that is a mixture of experts alone, without a mixer.</summary>
    public const string ExpertsName = "experts";

    /// <summary>The name of a mixer that a factory makes; see <see cref="BackboneBuilder.WithFactory"/>.</summary>
    public const string CustomName = "custom";

    /// <summary>Attention at every fourth layer: what <see cref="At"/> takes where no layers are named.</summary>
    private const int UnnamedPeriod = 4;

    private LayerPattern(IReadOnlyList<string> mixers) => Mixers = mixers;

    /// <summary>Names, first layer first.</summary>
    public IReadOnlyList<string> Mixers { get; }

    /// <summary>Number of layers.</summary>
    public int Count => Mixers.Count;

    /// <summary>
    /// True where layers of their own are the feed-forward layers (<see cref="MlpName"/>, <see cref="ExpertsName"/>): the layers with a
    /// mixer then have none.
    /// </summary>
    public bool StatesFeedForward => Mixers.Contains(MlpName) || Mixers.Contains(ExpertsName);

    /// <summary>Names that no mixer can be registered under, because they have a meaning of their own in a pattern.</summary>
    internal static IReadOnlyList<string> ReservedNames => [MlpName, ExpertsName, CustomName];

    /// <summary>Attention at every layer i (counted from 1) that is a multiple of <paramref name="attentionEvery"/>, else the backbone mixer.</summary>
    /// <param name="layers">Number of layers; at least 1.</param>
    /// <param name="attentionEvery">Period; at least 1. 1 is attention everywhere, more than <paramref name="layers"/> nowhere.</param>
    /// <param name="backbone">Mixer of the other layers.</param>
    /// <returns>The pattern: (6, 3, "mamba") is m m a m m a.</returns>
    public static LayerPattern Every(int layers, int attentionEvery, string backbone = "mamba")
    {
        RequireLayers(layers);
        if (attentionEvery < 1)
        {
            throw new ArgumentOutOfRangeException(
                nameof(attentionEvery), attentionEvery, $"LayerPattern: attention_every must be at least 1; got {attentionEvery}.");
        }

        return new([.. Enumerable.Range(1, layers).Select(i => i % attentionEvery == 0 ? AttentionName : backbone)]);
    }

    /// <summary>Attention at the given layers, else the backbone mixer.</summary>
    /// <param name="layers">Number of layers; at least 1.</param>
    /// <param name="attentionLayers">Layer numbers from 0, each once; null means 3, 7, 11 and so on.</param>
    /// <param name="backbone">Mixer of the other layers.</param>
    /// <returns>The pattern.</returns>
    public static LayerPattern At(int layers, IReadOnlyCollection<int>? attentionLayers, string backbone = "mamba")
    {
        RequireLayers(layers);
        if (attentionLayers is null)
        {
            return Every(layers, UnnamedPeriod, backbone);
        }

        foreach (var index in attentionLayers)
        {
            if (index < 0 || index >= layers)
            {
                throw new ArgumentOutOfRangeException(
                    nameof(attentionLayers), index, $"LayerPattern: an attention layer must be 0..{layers - 1}; got {index}.");
            }
        }

        if (attentionLayers.Distinct().Count() != attentionLayers.Count)
        {
            throw new ArgumentException(
                $"LayerPattern: each attention layer must be named once; got [{string.Join(", ", attentionLayers)}].", nameof(attentionLayers));
        }

        return new([.. Enumerable.Range(0, layers).Select(i => attentionLayers.Contains(i) ? AttentionName : backbone)]);
    }

    /// <summary>
    /// Backbone and attention layers in a ratio, spread evenly: of n layers, <c>clamp(round(n a / (a + b)), 1, n)</c> are attention, the
    /// i-th of them (from 0) at layer <c>round((i + 1) n / n_attention) - 1</c>.
    /// </summary>
    /// <param name="layers">Number of layers n; at least 1.</param>
    /// <param name="backboneParts">Parts b of the backbone mixer; 0 or more.</param>
    /// <param name="attentionParts">Parts a of attention; at least 1.</param>
    /// <param name="backbone">Mixer of the other layers.</param>
    /// <returns>The pattern: (8, 7, 1) is m m m m m m m a.</returns>
    public static LayerPattern Ratio(int layers, int backboneParts, int attentionParts, string backbone = "mamba")
    {
        RequireLayers(layers);
        ArgumentOutOfRangeException.ThrowIfNegative(backboneParts);
        ArgumentOutOfRangeException.ThrowIfLessThan(attentionParts, 1);
        var count = Math.Clamp(Round(layers * (double)attentionParts / (attentionParts + backboneParts)), 1, layers);
        return At(layers, [.. Enumerable.Range(0, count).Select(i => Round((i + 1) * (double)layers / count) - 1)], backbone);

        static int Round(double value) => (int)Math.Round(value, MidpointRounding.AwayFromZero);
    }

    /// <summary>An explicit list, repeated until every layer has a mixer.</summary>
    /// <param name="layers">Number of layers; at least 1.</param>
    /// <param name="mixers">Mixer names; at least one, no more than there are layers.</param>
    /// <returns>The pattern.</returns>
    public static LayerPattern Cycle(int layers, IReadOnlyList<string> mixers)
    {
        RequireLayers(layers);
        if (mixers.Count < 1 || mixers.Count > layers)
        {
            throw new ArgumentException(
                $"LayerPattern: a list for {layers} layers must have 1..{layers} names; got {mixers.Count}.", nameof(mixers));
        }

        return new([.. Enumerable.Range(0, layers).Select(i => mixers[i % mixers.Count])]);
    }

    /// <summary>
    /// One symbol a layer, as in Megatron-LM's hybrid override pattern (Waleffe et al., arXiv 2406.07887): <c>M</c> the backbone mixer,
    /// <c>*</c> attention, <c>-</c> a feed-forward layer alone, <c>E</c> experts alone, <c>G</c> the gated delta rule.
    /// </summary>
    /// <param name="symbols">The symbols, first layer first; at least one.</param>
    /// <param name="backbone">Mixer of the layers <c>M</c>.</param>
    /// <returns>The pattern: "M-M*" is mamba mlp mamba attention.</returns>
    /// <exception cref="ArgumentException">There is no symbol, or an unknown one.</exception>
    public static LayerPattern FromSymbols(string symbols, string backbone = "mamba")
    {
        RequireLayers(symbols.Length);
        return new([.. symbols.Select((symbol, layer) => symbol switch
        {
            'M' => backbone,
            '*' => AttentionName,
            '-' => MlpName,
            'E' => ExpertsName,
            'G' => "gated_delta_net",
            _ => throw new ArgumentException(
                $"LayerPattern: layer {layer} of '{symbols}' must be M (mixer), * (attention), - (MLP), E (experts) or G (gated delta); got '{symbol}'.",
                nameof(symbols)),
        })]);
    }

    /// <summary>The layers in short: "m m a m m a". Names that would share their first letter are written out.</summary>
    /// <returns>The text.</returns>
    public override string ToString()
    {
        var distinct = Mixers.Distinct().ToArray();
        var shortened = distinct.Select(name => name[0]).Distinct().Count() == distinct.Length;
        return string.Join(' ', Mixers.Select(name => shortened && name != CustomName ? name[..1] : name));
    }

    private static void RequireLayers(int layers)
    {
        if (layers < 1)
        {
            throw new ArgumentOutOfRangeException(nameof(layers), layers, $"LayerPattern: there must be at least 1 layer; got {layers}.");
        }
    }
}
