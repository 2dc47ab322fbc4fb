using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Routing;

/// <summary>Some consecutive tokens of each of several sequences, in a batch whose B T tokens are counted row after row.</summary>
/// <param name="Starts">First token of each.</param>
/// <param name="Counts">Number of tokens of each.</param>
internal sealed record TokenSpans(IReadOnlyList<long> Starts, IReadOnlyList<long> Counts)
{
    /// <summary>Most tokens of one.</summary>
    public long Longest => Counts.Max();

    /// <summary>The counts as lengths of a padded batch; null where all are equal.</summary>
    public IReadOnlyList<long>? Lengths => Counts.All(count => count == Counts[0]) ? null : Counts;

    /// <summary>Some of the sequences.</summary>
    public TokenSpans Rows(IReadOnlyList<long> rows) => new([.. rows.Select(row => Starts[(int)row])], [.. rows.Select(row => Counts[(int)row])]);

    /// <summary>The sequences whose count has a property.</summary>
    public long[] Where(Func<long, bool> holds) => [.. Enumerable.Range(0, Counts.Count).Where(i => holds(Counts[i])).Select(i => (long)i)];

    /// <summary>At most so many tokens of each, from its first on.</summary>
    public TokenSpans First(long count) => this with { Counts = [.. Counts.Select(own => Math.Min(own, count))] };

    /// <summary>At most so many tokens of each, from its first on.</summary>
    public TokenSpans First(long[] counts) => this with { Counts = [.. Counts.Zip(counts, Math.Min)] };

    /// <summary>What is left of each without so many first tokens.</summary>
    public TokenSpans From(long[] skipped) => new([.. Starts.Zip(skipped, (start, skip) => start + skip)], [.. Counts.Zip(skipped, (count, skip) => count - skip)]);

    /// <summary>What is left of each without so many first tokens.</summary>
    public TokenSpans From(long skipped) => From([.. Enumerable.Repeat(skipped, Starts.Count)]);

    /// <summary>The same for values [R, L, D] of these tokens.</summary>
    public Tensor From(Tensor values, long skipped) => values.narrow(1, skipped, Longest - skipped);

    /// <summary>The tokens as numbers in the batch, R rows of the longest; behind its own tokens a row repeats its last one.</summary>
    public long[] Padded()
    {
        var (longest, numbers) = (Longest, new long[Starts.Count * Longest]);
        for (var i = 0; i < numbers.Length; i++)
        {
            var row = (int)(i / longest);
            numbers[i] = Starts[row] + Math.Min(i % longest, Counts[row] - 1);
        }

        return numbers;
    }

    /// <summary>Where in the padded form the real tokens stand.</summary>
    public long[] Real()
    {
        var longest = Longest;
        return [.. Counts.SelectMany((count, row) => Enumerable.Range(0, (int)count).Select(t => (row * longest) + t))];
    }

    /// <summary>True where the spans are a whole batch of so many tokens, in its order.</summary>
    public bool IsAll(long tokens) => Lengths is null && tokens == Starts.Count * Longest && !Starts.Where((start, row) => start != row * Longest).Any();
}

/// <summary>Hands out the tokens of a batch in spans and puts what was computed of them together again.</summary>
internal sealed class TokenTable
{
    private readonly long[] shape;
    private readonly Tensor tokens;
    private readonly List<(TokenSpans Spans, Tensor Values)> pieces = [];

    /// <param name="input">[B, T, D].</param>
    public TokenTable(Tensor input)
    {
        shape = input.shape;
        tokens = input.reshape(-1, shape[2]);
    }

    private long Count => shape[0] * shape[1];

    /// <summary>Tokens of the input as [R, L, D], L being the longest span.</summary>
    public Tensor Take(TokenSpans spans) =>
        (spans.IsAll(Count) ? tokens : tokens.index_select(0, Index(spans.Padded()))).view(spans.Starts.Count, spans.Longest, shape[2]);

    /// <summary>Takes values [R, L, D] of spans; those behind a span's tokens do not count.</summary>
    public void Put(TokenSpans spans, Tensor values) => pieces.Add((spans, values));

    /// <summary>All values [B, T, D]; zero where there are none.</summary>
    public Tensor Output()
    {
        if (pieces is [var (spans, values)] && spans.IsAll(Count))
        {
            return values.view(shape);
        }

        var all = cat([.. pieces.Select(piece => Flat(piece.Spans, piece.Values))], 0);
        var places = pieces.SelectMany(piece => Pick(piece.Spans.Padded(), piece.Spans.Real())).ToArray();
        return zeros([Count, shape[2]], dtype: all.dtype, device: all.device).index_copy(0, Index(places), all).view(shape);
    }

    private Tensor Flat(TokenSpans spans, Tensor values)
    {
        var flat = values.reshape(-1, shape[2]);
        return spans.Lengths is null ? flat : flat.index_select(0, Index(spans.Real()));
    }

    private static IEnumerable<long> Pick(long[] numbers, long[] places) => places.Select(place => numbers[place]);

    private Tensor Index(long[] numbers) => tensor(numbers, dtype: ScalarType.Int64).to(tokens.device);
}
