using TorchSharp;
using static TorchSharp.torch;

namespace Hybrid.Samples;

/// <summary>A task whose sequences are drawn at will: ids [B, T], and targets [B, T] with -100 wherever nothing is asked.</summary>
internal abstract class RecallTask
{
    /// <summary>A target that does not count.</summary>
    public const long Ignored = -100;

    public abstract string Name { get; }

    public abstract long VocabSize { get; }

    public abstract int TrainingLength { get; }

    /// <summary>Steps in which the hybrids that can learn the task do so, with room to spare.</summary>
    public abstract int Steps { get; }

    /// <summary>Lengths to test, the training length first.</summary>
    public abstract IReadOnlyList<int> TestLengths { get; }

    /// <summary>Draws a batch.</summary>
    public (Tensor Ids, Tensor Targets) Draw(Random random, int batch, int length)
    {
        var (ids, targets) = (new long[batch * length], new long[batch * length]);
        Array.Fill(targets, Ignored);
        for (var row = 0; row < batch; row++)
        {
            Fill(random, ids.AsSpan(row * length, length), targets.AsSpan(row * length, length));
        }

        using var scope = NewDisposeScope();
        return (
            tensor(ids, dtype: ScalarType.Int64).view(batch, length).MoveToOuterDisposeScope(),
            tensor(targets, dtype: ScalarType.Int64).view(batch, length).MoveToOuterDisposeScope());
    }

    protected abstract void Fill(Random random, Span<long> ids, Span<long> targets);
}

/// <summary>
/// Multi-query associative recall (Arora et al., Zoology, arXiv 2312.04927): n pairs of a key and a value, then keys in random order; at
/// each the value of its pair is asked. Keys are ids of the lower half of the vocabulary, values of the upper one, drawn anew for every
/// sequence. A longer sequence asks more often, and so over a greater distance.
/// </summary>
internal sealed class AssociativeRecall(int vocabulary, int length, int pairs) : RecallTask
{
    public override string Name => $"associative recall: {pairs} pairs, vocabulary {vocabulary}, length {length}";

    public override long VocabSize => vocabulary;

    public override int TrainingLength => length;

    public override int Steps => 3000;

    public override IReadOnlyList<int> TestLengths => [length, 2 * length, 4 * length];

    protected override void Fill(Random random, Span<long> ids, Span<long> targets)
    {
        var half = vocabulary / 2;
        var keys = Distinct(random, pairs, half);
        var values = Distinct(random, pairs, vocabulary - half);
        for (var i = 0; i < pairs; i++)
        {
            (ids[2 * i], ids[(2 * i) + 1]) = (keys[i], half + values[i]);
        }

        for (var t = 2 * pairs; t < ids.Length; t++)
        {
            var asked = random.Next(pairs);
            (ids[t], targets[t]) = (keys[asked], half + values[asked]);
        }
    }

    private static int[] Distinct(Random random, int count, int below)
    {
        var drawn = new HashSet<int>();
        while (drawn.Count < count)
        {
            drawn.Add(random.Next(below));
        }

        return [.. drawn];
    }
}

/// <summary>
/// Induction heads (Olsson et al., arXiv 2209.11895, in the form of Gu and Dao, arXiv 2312.00752, with more than one question a sequence):
/// among random tokens stands a special one, in the first half of the training length; wherever it comes again, what followed it there
/// is asked. Each question stands in its own stretch of the rest, so that the last one is as far away as the sequence is long.
/// </summary>
internal sealed class InductionHeads(int vocabulary, int length) : RecallTask
{
    private const int Questions = 4;
    private const long Special = 0;

    public override string Name => $"induction heads: vocabulary {vocabulary}, length {length}";

    public override long VocabSize => vocabulary;

    public override int TrainingLength => length;

    public override int Steps => 500;

    public override IReadOnlyList<int> TestLengths => [length, 2 * length, 4 * length];

    protected override void Fill(Random random, Span<long> ids, Span<long> targets)
    {
        for (var t = 0; t < ids.Length; t++)
        {
            ids[t] = 1 + random.Next(vocabulary - 1);
        }

        var first = random.Next((length / 2) - 1);
        ids[first] = Special;
        var answer = ids[first + 1];
        var stretch = (ids.Length - (length / 2)) / Questions;
        for (var question = 0; question < Questions; question++)
        {
            var t = (length / 2) + (question * stretch) + random.Next(stretch);
            (ids[t], targets[t]) = (Special, answer);
        }
    }
}
