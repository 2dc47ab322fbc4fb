using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid;

/// <summary>
/// The validated input of one forward call, with left padding turned into right padding, so that a mixer handles one form only.
/// A mixer opens a dispose scope, calls <see cref="Begin"/>, computes on <see cref="Input"/> and returns <see cref="End"/>.
/// </summary>
public readonly struct MixerBatch
{
    private readonly Tensor? order;
    private readonly Tensor? restoreOrder;

    private MixerBatch(
        Tensor input, long[] shape, IReadOnlyList<long>? lengths, Tensor? mask, Tensor? order = null, Tensor? restoreOrder = null)
    {
        Input = input;
        Size = shape[0];
        Length = shape[1];
        Lengths = lengths;
        Mask = mask;
        this.order = order;
        this.restoreOrder = restoreOrder;
    }

    /// <summary>Input [B, T, D]; the real tokens of each row come first.</summary>
    public Tensor Input { get; }

    /// <summary>Batch rows B.</summary>
    public long Size { get; }

    /// <summary>Time steps T.</summary>
    public long Length { get; }

    /// <summary>Real tokens of each row, or null where every row is full.</summary>
    public IReadOnlyList<long>? Lengths { get; }

    /// <summary>Bool [B, T], true at real tokens; null where every row is full.</summary>
    public Tensor? Mask { get; }

    /// <summary>Checks input and context, and aligns left-padded rows.</summary>
    /// <param name="mixer">The mixer, for its width and for error texts.</param>
    /// <param name="x">Input [B, T, D].</param>
    /// <param name="context">The context of the call.</param>
    /// <param name="dtype">The dtype of the weights, which the input must have.</param>
    /// <returns>The batch; its tensors belong to the current dispose scope.</returns>
    /// <exception cref="ArgumentException">Shape, dtype, lengths, sequence ids or prefixes do not fit.</exception>
    public static MixerBatch Begin(SequenceMixer mixer, Tensor x, MixerContext context, ScalarType dtype)
    {
        var name = mixer.GetName();
        var shape = x.shape;
        if (shape.Length != 3 || shape[2] != mixer.Width || shape[0] < 1 || shape[1] < 1)
        {
            throw new ArgumentException($"{name}: x must be [B, T, {mixer.Width}] with B, T >= 1; got [{string.Join(", ", shape)}].", nameof(x));
        }

        if (x.dtype != dtype)
        {
            throw new ArgumentException($"{name}: x must be {dtype}, the dtype of the weights; got {x.dtype}.", nameof(x));
        }

        ValidateSequenceIds(name, context, shape);
        var lengths = ValidateLengths(name, context, shape);
        ValidatePrefixLengths(name, context, shape, lengths);
        if (lengths is null)
        {
            return new MixerBatch(x, shape, null, null);
        }

        var steps = arange(shape[1], dtype: ScalarType.Int64, device: x.device).unsqueeze(0);
        var counts = tensor(lengths.ToArray(), dtype: ScalarType.Int64).to(x.device).unsqueeze(1);
        var mask = steps.lt(counts);
        if (context.PaddingSide == PaddingSide.Right)
        {
            return new MixerBatch(x, shape, lengths, mask);
        }

        // Rotating each row by its padding puts the real tokens first; rotating back restores the order.
        var toFront = (steps + (shape[1] - counts)).remainder(shape[1]);
        var toBack = (steps + counts).remainder(shape[1]);
        return new MixerBatch(Reorder(x, toFront), shape, lengths, mask, toFront, toBack);
    }

    /// <summary>The context of a mixer inside this one, whose input is in the order of <see cref="Input"/>.</summary>
    /// <param name="context">The context of the call.</param>
    /// <returns>The same context, padded on the right.</returns>
    internal MixerContext Inner(MixerContext context) => context with
    {
        Lengths = Lengths,
        PaddingSide = PaddingSide.Right,
        StackInput = context.StackInput is { } input && order is not null ? Reorder(input, order) : context.StackInput,
    };

    /// <summary>Zeroes the padding and restores the caller's order of tokens.</summary>
    /// <param name="y">Output [B, T, D] for <see cref="Input"/>.</param>
    /// <returns>Output [B, T, D] for the caller's input.</returns>
    public Tensor End(Tensor y)
    {
        if (Mask is null)
        {
            return y;
        }

        var masked = y.masked_fill(Mask.logical_not().unsqueeze(-1), 0);
        return restoreOrder is null ? masked : Reorder(masked, restoreOrder);
    }

    /// <summary>Zeroes the padding of a tensor in the caller's order, for a layer that adds to its input.</summary>
    /// <param name="y">[B, T, D].</param>
    /// <param name="context">The context of the call.</param>
    /// <returns>[B, T, D]; <paramref name="y"/> itself where there is no padding.</returns>
    public static Tensor ZeroPadding(Tensor y, MixerContext context)
    {
        if (context.Lengths is not { } lengths)
        {
            return y;
        }

        using var scope = NewDisposeScope();
        var time = y.size(1);
        var steps = arange(time, dtype: ScalarType.Int64, device: y.device).unsqueeze(0);
        var counts = tensor(lengths.ToArray(), dtype: ScalarType.Int64).to(y.device).unsqueeze(1);
        var padding = context.PaddingSide == PaddingSide.Left ? steps.lt(time - counts) : steps.ge(counts);
        return y.masked_fill(padding.unsqueeze(-1), 0).MoveToOuterDisposeScope();
    }

    private static Tensor Reorder(Tensor x, Tensor order) => x.gather(1, order.unsqueeze(-1).expand_as(x));

    private static IReadOnlyList<long>? ValidateLengths(string name, MixerContext context, long[] shape)
    {
        if (context.Lengths is not { } lengths)
        {
            return null;
        }

        if (lengths.Count != shape[0])
        {
            throw new ArgumentException($"{name}: Lengths must have one entry a batch row, {shape[0]}; got {lengths.Count}.", nameof(context));
        }

        foreach (var length in lengths)
        {
            if (length < 1 || length > shape[1])
            {
                throw new ArgumentException($"{name}: a length must be 1..{shape[1]}; got {length}.", nameof(context));
            }
        }

        return lengths.All(length => length == shape[1]) ? null : lengths;
    }

    private static void ValidatePrefixLengths(string name, MixerContext context, long[] shape, IReadOnlyList<long>? lengths)
    {
        if (context.PrefixLengths is not { } prefixes)
        {
            return;
        }

        if (context.SequenceIds is not null)
        {
            throw new ArgumentException($"{name}: packed rows (SequenceIds) carry no PrefixLengths.", nameof(context));
        }

        if (prefixes.Count != shape[0])
        {
            throw new ArgumentException(
                $"{name}: PrefixLengths must have one entry a batch row, {shape[0]}; got {prefixes.Count}.", nameof(context));
        }

        for (var row = 0; row < prefixes.Count; row++)
        {
            var longest = lengths?[row] ?? shape[1];
            if (prefixes[row] < 0 || prefixes[row] > longest)
            {
                throw new ArgumentException(
                    $"{name}: the prefix of row {row} must be 0..{longest}, as the call must hold all of it; got {prefixes[row]}.", nameof(context));
            }

            if (prefixes[row] > 0 && context.State is { } state && row < state.BatchSize && state.Positions[row] > 0)
            {
                throw new ArgumentException(
                    $"{name}: the prefix of row {row} must be 0, as its sequence has begun, {state.Positions[row]} tokens ago; got {prefixes[row]}.",
                    nameof(context));
            }
        }
    }

    private static void ValidateSequenceIds(string name, MixerContext context, long[] shape)
    {
        if (context.SequenceIds is not { } ids)
        {
            return;
        }

        if (context.State is not null || context.Lengths is not null)
        {
            throw new ArgumentException($"{name}: packed rows (SequenceIds) carry neither State nor Lengths.", nameof(context));
        }

        if (ids.dtype != ScalarType.Int64 || !ids.shape.AsSpan().SequenceEqual(shape.AsSpan(0, 2)))
        {
            throw new ArgumentException(
                $"{name}: SequenceIds must be Int64 [{shape[0]}, {shape[1]}]; got {ids.dtype} [{string.Join(", ", ids.shape)}].",
                nameof(context));
        }
    }
}
