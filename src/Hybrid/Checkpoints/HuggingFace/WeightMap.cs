using Hybrid.Backbone;
using Hybrid.Modeling;
using static TorchSharp.torch;

namespace Hybrid.Checkpoints.HuggingFace;

/// <summary>A tensor of a checkpoint: parts of the model's own tensors, one under the other in its first dimension.</summary>
/// <param name="Name">Name in the checkpoint.</param>
/// <param name="Parts">Makes views of the model's tensors, in the current dispose scope.</param>
internal sealed record HubTensor(string Name, Func<IReadOnlyList<Tensor>> Parts)
{
    /// <summary>Shape in the checkpoint.</summary>
    public long[] Shape()
    {
        using var scope = NewDisposeScope();
        var shapes = Parts().Select(part => part.shape).ToArray();
        return shapes.Length == 1 ? shapes[0] : [shapes.Sum(shape => shape[0]), .. shapes[0][1..]];
    }

    /// <summary>The tensor to save, which shares the model's memory where it has one part; in the current dispose scope.</summary>
    public Tensor Value()
    {
        var parts = Parts();
        return parts.Count == 1 ? parts[0].detach() : cat([.. parts.Select(part => part.detach())], 0);
    }

    /// <summary>Sets the model's tensors to the one of the checkpoint, by way of a copy where it has several parts or another type.</summary>
    /// <param name="file">The file that has it.</param>
    /// <param name="name">Its name there, which may be an older one.</param>
    public void Fill(SafeTensorsFile file, string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var parts = Parts();
        if (parts.Count == 1 && parts[0].dtype == file.Entry(name).Type)
        {
            file.ReadInto(name, parts[0]);
            return;
        }

        var value = file.Read(name);
        var start = 0L;
        foreach (var part in parts)
        {
            part.copy_(parts.Count == 1 ? value : value.narrow(0, start, part.size(0)));
            start += part.dim() == 0 ? 0 : part.size(0);
        }
    }
}

/// <summary>
/// Which tensor of a checkpoint is which of a model: one table for loading and for saving. An architecture states it by renaming modules,
/// by unstacking experts and by joining projections; every tensor of the model must be named by it.
/// </summary>
internal sealed class WeightMap
{
    private readonly Dictionary<string, Tensor> open;
    private readonly List<HubTensor> tensors = [];
    private readonly Dictionary<string, string> aliases = new(StringComparer.Ordinal);

    /// <param name="model">The model.</param>
    public WeightMap(CausalLanguageModel model)
    {
        open = model.state_dict().ToDictionary(entry => entry.Key, entry => entry.Value);
        Model = model;
    }

    /// <summary>The model.</summary>
    public CausalLanguageModel Model { get; }

    /// <summary>The tensors of the checkpoint, in order of their names.</summary>
    public IReadOnlyList<HubTensor> Tensors => open.Count == 0
        ? [.. tensors.OrderBy(tensor => tensor.Name, StringComparer.Ordinal)]
        : throw new InvalidOperationException(
            $"WeightMap: no name in the checkpoint for {string.Join(", ", open.Keys.Order(StringComparer.Ordinal))}.");

    /// <summary>Other names in older files, each with the name of the table that it means.</summary>
    public IReadOnlyDictionary<string, string> Aliases => aliases;

    /// <summary>The blocks of the model with the prefix of their tensors, here and in the checkpoint, without the last point.</summary>
    /// <param name="hub">What comes before the number of a layer in the checkpoint.</param>
    public IEnumerable<(string Own, string Hub, ResidualBlock Block)> Layers(string hub) =>
        Model.Backbone.Blocks.Select((block, i) => ($"backbone.layers.{i}", $"{hub}.{i}", block));

    /// <summary>A module of the model, or one tensor, with all that is not named yet, under another name.</summary>
    public void Rename(string own, string hub)
    {
        foreach (var name in open.Keys.Where(name => name == own || name.StartsWith(own + ".", StringComparison.Ordinal)).ToArray())
        {
            var tensor = Take(name);
            tensors.Add(new HubTensor(hub + name[own.Length..], () => [tensor.alias()]));
        }
    }

    /// <summary>
    /// A stack [E, n R, ...] of the model as single tensors: "{0}" in a name is the number of the expert, and with n names each has R
    /// rows, in this order.
    /// </summary>
    public void Unstack(string own, params string[] hub)
    {
        if (!open.ContainsKey(own))
        {
            return;
        }

        var stack = Take(own);
        var (count, rows) = (stack.size(0), stack.size(1) / hub.Length);
        for (var e = 0L; e < count; e++)
        {
            for (var part = 0; part < hub.Length; part++)
            {
                var (expert, start) = (e, part * rows);
                tensors.Add(new HubTensor(string.Format(null, hub[part], e), () => [stack.select(0, expert).narrow(0, start, rows)]));
            }
        }
    }

    /// <summary>Tensors of the model as one, one under the other.</summary>
    public void Join(string hub, params string[] own)
    {
        if (own.All(open.ContainsKey))
        {
            var parts = own.Select(Take).ToArray();
            tensors.Add(new HubTensor(hub, () => [.. parts.Select(part => part.alias())]));
        }
    }

    /// <summary>Says that older files have another name for a tensor.</summary>
    public void Alias(string older, string name) => aliases[older] = name;

    private Tensor Take(string name)
    {
        open.Remove(name, out var tensor);
        return tensor!;
    }
}
