using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Hybrid.Attention;

/// <summary>What the heads of one type give.</summary>
/// <param name="Type">The type.</param>
/// <param name="Heads">Number of heads.</param>
/// <param name="Mean">Mean of their outputs.</param>
/// <param name="Std">Standard deviation of their outputs, of the population.</param>
/// <param name="Min">Smallest output.</param>
/// <param name="Max">Largest output.</param>
public sealed record HeadOutputStatistics(HeadType Type, int Heads, double Mean, double Std, double Min, double Max);

/// <summary>Euclidean norms of the gradients of what belongs to the heads of one type.</summary>
/// <param name="Type">The type.</param>
/// <param name="Heads">Number of heads.</param>
/// <param name="InProjection">Their rows of the query, key and value projection, with its bias.</param>
/// <param name="OutProjection">Their columns of the output projection.</param>
/// <param name="Own">Parameters of the type itself: filters or rotations; 0 for standard heads, which have none.</param>
public sealed record HeadGradientNorms(HeadType Type, int Heads, double InProjection, double OutProjection, double Own);

/// <summary>Looks into a <see cref="MixedHeadAttention"/>: which type of head gives how much, and learns how much.</summary>
public static class MixedHeadAnalysis
{
    /// <summary>Statistics of the outputs of the heads, before the output projection.</summary>
    /// <param name="layer">The layer, as it is: in training mode its dropout acts.</param>
    /// <param name="x">Input [B, T, D].</param>
    /// <returns>One entry a type that the layer has, in the order of <see cref="HeadType"/>.</returns>
    /// <exception cref="ArgumentException">The input does not fit the layer.</exception>
    public static IReadOnlyList<HeadOutputStatistics> OutputStatistics(MixedHeadAttention layer, Tensor x)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var batch = MixerBatch.Begin(layer, x, MixerContext.None, layer.InProjection.weight.dtype);
        var heads = layer.MixHeads(batch, MixerContext.None).to_type(ScalarType.Float64);
        return [.. ByType(layer).Select(group =>
        {
            var own = Heads(heads, 2, group);
            var count = group.Count();
            return new HeadOutputStatistics(
                group.Key, count, own.mean().ToDouble(), own.std(unbiased: false).ToDouble(), own.min().ToDouble(), own.max().ToDouble());
        })];
    }

    /// <summary>Norms of the gradients that a backward pass left.</summary>
    /// <param name="layer">The layer.</param>
    /// <returns>One entry a type that the layer has, in the order of <see cref="HeadType"/>.</returns>
    /// <exception cref="InvalidOperationException">No backward pass has reached the layer.</exception>
    public static IReadOnlyList<HeadGradientNorms> GradientNorms(MixedHeadAttention layer)
    {
        using var scope = NewDisposeScope();
        var (count, width) = (layer.HeadTypes.Count, layer.HeadWidth);
        var inWeight = Gradient(layer.InProjection.weight!).view(3, count, width, layer.Width);
        var inBias = Gradient(layer.InProjection.bias!).view(3, count, width, 1);
        var input = cat([inWeight, inBias], -1);
        var output = Gradient(layer.OutProjection.weight!).view(layer.Width, count, width);
        return [.. ByType(layer).Select(group => new HeadGradientNorms(
            group.Key,
            group.Count(),
            Norm([Heads(input, 1, group)]),
            Norm([Heads(output, 1, group)]),
            Norm(layer.ParametersOf(group.Key).Select(Gradient))))];
    }

    private static IEnumerable<IGrouping<HeadType, long>> ByType(MixedHeadAttention layer) =>
        layer.HeadTypes.Select((type, head) => (type, head)).GroupBy(entry => entry.type, entry => (long)entry.head).OrderBy(group => group.Key);

    private static Tensor Heads(Tensor x, long dimension, IEnumerable<long> heads) =>
        x.index_select(dimension, tensor(heads.ToArray(), dtype: ScalarType.Int64).to(x.device));

    private static Tensor Gradient(Parameter parameter) =>
        parameter.grad?.to_type(ScalarType.Float64)
            ?? throw new InvalidOperationException("MixedHeadAnalysis: the layer has no gradients; run a backward pass through it first.");

    private static double Norm(IEnumerable<Tensor> gradients) => Math.Sqrt(gradients.Sum(gradient => gradient.square().sum().ToDouble()));
}
