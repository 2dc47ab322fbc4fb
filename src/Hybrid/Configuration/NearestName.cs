namespace Hybrid.Configuration;

/// <summary>Finds the name that was probably meant by a misspelt one.</summary>
internal static class NearestName
{
    /// <summary>The known name nearest to <paramref name="name"/>; null where more than a third of the letters differ.</summary>
    public static string? Find(string name, IEnumerable<string> known)
    {
        string? nearest = null;
        var least = Math.Max(1, name.Length / 3) + 1;
        foreach (var candidate in known.Order(StringComparer.Ordinal))
        {
            var distance = Distance(name.ToLowerInvariant(), candidate.ToLowerInvariant());
            if (distance < least)
            {
                (nearest, least) = (candidate, distance);
            }
        }

        return nearest;
    }

    /// <summary>The end of an error text: <c>"; did you mean 'x'?"</c>, or nothing where no name is near.</summary>
    public static string Hint(string name, IEnumerable<string> known) =>
        Find(name, known) is { } nearest ? $"; did you mean '{nearest}'?" : "";

    /// <summary>The hint, or <c>"; known: a, b"</c> where no name is near.</summary>
    public static string HintOrNames(string name, IReadOnlyCollection<string> known) =>
        Hint(name, known) is { Length: > 0 } hint ? hint : $"; known: {string.Join(", ", known)}";

    /// <summary>Letters to insert, delete, replace, or swap with their neighbour to turn one text into the other.</summary>
    private static int Distance(string from, string to)
    {
        var cost = new int[from.Length + 1, to.Length + 1];
        for (var i = 0; i <= from.Length; i++)
        {
            for (var j = 0; j <= to.Length; j++)
            {
                cost[i, j] = i == 0 || j == 0 ? i + j : Cheapest(i, j);
            }
        }

        return cost[from.Length, to.Length];

        int Cheapest(int i, int j)
        {
            var replaced = cost[i - 1, j - 1] + (from[i - 1] == to[j - 1] ? 0 : 1);
            var best = Math.Min(replaced, 1 + Math.Min(cost[i - 1, j], cost[i, j - 1]));
            var swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
            return swapped ? Math.Min(best, 1 + cost[i - 2, j - 2]) : best;
        }
    }
}
