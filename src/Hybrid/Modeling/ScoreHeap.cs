namespace Hybrid.Modeling;

/// <summary>
/// Hands out tokens from the highest score to the lowest, ties by token, in O(V) for the first and O(log V) for each one after it: the few
/// that a cut keeps cost less than sorting all.
/// </summary>
internal sealed class ScoreHeap
{
    private double[] scores = [];
    private int[] tokens = [];
    private int count;

    /// <summary>Starts over.</summary>
    /// <param name="newScores">A score of each token, none NaN; they must stay as they are while tokens are taken.</param>
    /// <param name="newCount">Tokens V, from the first.</param>
    public void Fill(double[] newScores, int newCount)
    {
        (scores, count) = (newScores, newCount);
        if (tokens.Length < count)
        {
            tokens = new int[count];
        }

        for (var token = 0; token < count; token++)
        {
            tokens[token] = token;
        }

        for (var place = (count / 2) - 1; place >= 0; place--)
        {
            Sink(place);
        }
    }

    /// <summary>The token of the highest score among those that are left; there must be one.</summary>
    public int Take()
    {
        var first = tokens[0];
        tokens[0] = tokens[--count];
        Sink(0);
        return first;
    }

    /// <summary>Moves the token at a place below those that come before it.</summary>
    private void Sink(int place)
    {
        if (place >= count)
        {
            return;
        }

        var token = tokens[place];
        while (true)
        {
            var child = (2 * place) + 1;
            if (child + 1 < count && IsBefore(tokens[child + 1], tokens[child]))
            {
                child++;
            }

            if (child >= count || !IsBefore(tokens[child], token))
            {
                tokens[place] = token;
                return;
            }

            tokens[place] = tokens[child];
            place = child;
        }
    }

    private bool IsBefore(int left, int right) => scores[left] > scores[right] || (scores[left] == scores[right] && left < right);
}
