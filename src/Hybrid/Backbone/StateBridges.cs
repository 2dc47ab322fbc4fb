using Hybrid.Routing;
using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace Hybrid.Backbone;

/// <summary>The bridges of a stack: one before each layer whose mixer is of another kind than that of the layer before.</summary>
internal sealed class StateBridges : Module
{
    // The bridge of each layer, as a place in the list; -1 where there is none.
    private readonly int[] places;

    [ComponentName(Name = "bridges")]
    private readonly ModuleList<StateBridge> bridges;

    public StateBridges(long width, LayerPattern pattern)
        : base(nameof(StateBridges))
    {
        var mixers = pattern.Mixers;
        var changes = Enumerable.Range(0, mixers.Count).Where(i => i > 0 && mixers[i] != mixers[i - 1]).ToList();
        if (changes.Count == 0)
        {
            throw new ArgumentException(
                $"StateBridges: a state bridge joins layers of different mixers, but all {mixers.Count} layers are '{mixers[0]}'.");
        }

        places = [.. Enumerable.Range(0, mixers.Count).Select(layer => changes.IndexOf(layer))];
        bridges = new ModuleList<StateBridge>([.. changes.Select(_ => new StateBridge(width))]);
        RegisterComponents();
    }

    /// <summary>The bridge before each layer, or null.</summary>
    public IReadOnlyList<StateBridge?> OfLayers => [.. places.Select(place => place < 0 ? null : bridges[place])];

    public IEnumerable<MixerState> CreateStates(long batchSize) => bridges.Select(bridge => bridge.CreateState(batchSize));

    /// <summary>The input of a layer.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="x">Output of the layer before [B, T, D].</param>
    /// <param name="before">Input of the layer before [B, T, D].</param>
    /// <param name="context">Padding and packed rows.</param>
    /// <param name="states">States of <see cref="CreateStates"/>, which are advanced, or null.</param>
    /// <returns>[B, T, D]; <paramref name="x"/> itself where the layer has no bridge.</returns>
    public Tensor Enter(int layer, Tensor x, Tensor before, MixerContext context, IEnumerable<MixerState>? states)
    {
        var place = places[layer];
        return place < 0 ? x : x + bridges[place].forward(x - before, context.WithState(states?.ElementAt(place)));
    }
}
