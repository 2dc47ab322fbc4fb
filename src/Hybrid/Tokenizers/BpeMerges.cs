namespace Hybrid.Tokenizers;

/// <summary>
/// Byte pair encoding (Sennrich et al., arXiv 1508.07909): of all neighbours in a word the pair that was learned first becomes one token,
/// the leftmost where it occurs more than once, until no pair is left that was learned.
/// </summary>
/// <param name="merges">For each pair of ids its rank, 0 the first one learned, and the id of both together.</param>
internal sealed class BpeMerges(IReadOnlyDictionary<(int Left, int Right), (int Rank, int Merged)> merges)
{
    /// <summary>Merges in place: O(n log n) steps for n ids, however long the word.</summary>
    /// <param name="ids">The ids of the word's bytes.</param>
    /// <returns>The number of ids that are left, at the front of <paramref name="ids"/>.</returns>
    public int Apply(Span<int> ids)
    {
        var word = new Word(ids.Length);
        var queue = new PriorityQueue<Candidate, (int Rank, int Place)>();
        for (var place = 0; place + 1 < ids.Length; place++)
        {
            Offer(ids, word, queue, place);
        }

        while (queue.TryDequeue(out var candidate, out _))
        {
            var (left, right) = (candidate.Left, candidate.Right);
            if (ids[left] != candidate.LeftId || word.Next[left] != right || ids[right] != candidate.RightId)
            {
                // One of the two was merged with another meanwhile.
                continue;
            }

            ids[left] = candidate.Merged;
            ids[right] = Word.Gone;
            word.Remove(right);
            Offer(ids, word, queue, left);
            if (left > 0)
            {
                Offer(ids, word, queue, word.Previous[left]);
            }
        }

        var count = 0;
        for (var place = 0; place < ids.Length; place = word.Next[place])
        {
            ids[count++] = ids[place];
        }

        return count;
    }

    private void Offer(Span<int> ids, Word word, PriorityQueue<Candidate, (int Rank, int Place)> queue, int left)
    {
        var right = word.Next[left];
        if (right < ids.Length && merges.TryGetValue((ids[left], ids[right]), out var merge))
        {
            queue.Enqueue(new Candidate(left, right, ids[left], ids[right], merge.Merged), (merge.Rank, left));
        }
    }

    private readonly record struct Candidate(int Left, int Right, int LeftId, int RightId, int Merged);

    /// <summary>The places of a word that still hold an id, linked both ways.</summary>
    private sealed class Word
    {
        public const int Gone = -1;

        public Word(int length)
        {
            Next = [.. Enumerable.Range(1, length)];
            Previous = [.. Enumerable.Range(-1, length)];
        }

        public int[] Next { get; }

        public int[] Previous { get; }

        public void Remove(int place)
        {
            Next[Previous[place]] = Next[place];
            if (Next[place] < Previous.Length)
            {
                Previous[Next[place]] = Previous[place];
            }
        }
    }
}
