namespace Hybrid.Backbone;

/// <summary>Parts of the backbone mixer and of attention in a stack; <see cref="LayerPattern.Ratio"/> spreads them.</summary>
public sealed record LayerRatio
{
    /// <summary>Parts of the backbone mixer; 0 or more. Default 7, as in Jamba (Lieber et al., arXiv 2403.19887).</summary>
    public int Backbone { get; init; } = 7;

    /// <summary>Parts of attention; at least 1. Default 1.</summary>
    public int Attention { get; init; } = 1;

    /// <summary>Throws where a value is out of its range.</summary>
    public void Validate()
    {
        OptionRange.AtLeast(nameof(LayerRatio), nameof(Backbone), Backbone, 0);
        OptionRange.AtLeast(nameof(LayerRatio), nameof(Attention), Attention, 1);
    }
}

/// <summary>The ways in which an options record can state its layers, of which it uses one at most.</summary>
/// <param name="Owner">Name of the record, for error texts.</param>
/// <param name="NumLayers">Number of layers.</param>
/// <param name="Backbone">Mixer of the layers that are not attention, or null for the default.</param>
/// <param name="AttentionEvery">Period of attention.</param>
/// <param name="AttentionLayers">Layers of attention, from 0.</param>
/// <param name="Ratio">Parts of both.</param>
/// <param name="HybridOverridePattern">A symbol a layer.</param>
/// <param name="Layers">Names, repeated.</param>
internal sealed record LayerStatement(
    string Owner,
    int NumLayers,
    string? Backbone,
    int? AttentionEvery,
    IReadOnlyList<int>? AttentionLayers,
    LayerRatio? Ratio,
    string? HybridOverridePattern,
    IReadOnlyList<string>? Layers)
{
    /// <summary>The properties that state layers, by the names that the records share.</summary>
    public static IReadOnlyList<string> Ways { get; } =
        [nameof(Layers), nameof(AttentionEvery), nameof(AttentionLayers), nameof(Ratio), nameof(HybridOverridePattern)];

    /// <summary>Makes the pattern; attention at every third layer where nothing is stated.</summary>
    /// <returns>The pattern.</returns>
    /// <exception cref="ArgumentException">The layers are stated in more than one way, or do not fit their number.</exception>
    public LayerPattern Resolve()
    {
        object?[] values = [Layers, AttentionEvery, AttentionLayers, Ratio, HybridOverridePattern];
        var given = Ways.Where((_, i) => values[i] is not null).ToArray();
        if (given.Length > 1)
        {
            throw new ArgumentException($"{Owner}: state the layers in one way only; got {string.Join(" and ", given)}.");
        }

        if (Layers is not null && Backbone is not null)
        {
            throw new ArgumentException($"{Owner}: Layers name every mixer; Backbone has no meaning beside them.");
        }

        var backbone = Backbone ?? "mamba";
        return (Layers, AttentionLayers, Ratio, HybridOverridePattern) switch
        {
            ({ } names, _, _, _) => LayerPattern.Cycle(NumLayers, names),
            (_, { } indices, _, _) => LayerPattern.At(NumLayers, indices, backbone),
            (_, _, { } ratio, _) => LayerPattern.Ratio(NumLayers, ratio.Backbone, ratio.Attention, backbone),
            (_, _, _, { } symbols) => FromSymbols(symbols, backbone),
            _ => LayerPattern.Every(NumLayers, AttentionEvery ?? 3, backbone),
        };
    }

    private LayerPattern FromSymbols(string symbols, string backbone)
    {
        if (symbols.Length != NumLayers)
        {
            throw new ArgumentException(
                $"{Owner}: HybridOverridePattern must have a symbol for each of the {NumLayers} layers; got {symbols.Length}, '{symbols}'.");
        }

        return LayerPattern.FromSymbols(symbols, backbone);
    }
}
