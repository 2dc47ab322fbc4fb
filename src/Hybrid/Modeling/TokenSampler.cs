namespace Hybrid.Modeling;

/// <summary>
/// Chooses the next token from logits. Order: repetition penalty, temperature, top-k, top-p, min-p, draw. The draws depend on the seed alone,
/// not on torch's generators.
/// </summary>
public sealed class TokenSampler
{
    private readonly GenerationOptions options;
    private readonly Random random;
    private readonly ScoreHeap heap = new();

    // Of each token: the logit after the penalty, and the unnormalised probability where it is a candidate.
    private double[] scores = [];
    private double[] likelihoods = [];

    // The candidates; most likely first where there is a cut by rank or by mass.
    private int[] order = [];

    /// <param name="options">Temperature, cuts, penalty and seed.</param>
    public TokenSampler(GenerationOptions options)
    {
        options.Validate();
        this.options = options;
        random = options.Seed is { } seed ? new Random(seed) : new Random();
    }

    /// <summary>Chooses a token.</summary>
    /// <param name="logits">One logit a token, V of them, none NaN.</param>
    /// <param name="seen">Tokens of the sequence so far, for the repetition penalty.</param>
    /// <returns>The token, 0..V-1.</returns>
    /// <exception cref="ArgumentException">There are no logits, one is NaN or positive infinity, or all are negative infinity.</exception>
    public int Sample(ReadOnlySpan<float> logits, IReadOnlySet<int> seen)
    {
        Prepare(logits, seen);
        var best = scores.AsSpan(0, logits.Length).IndexOfMaximum();
        if (double.IsNegativeInfinity(scores[best]))
        {
            throw new ArgumentException("TokenSampler: at least one logit must be finite; all are negative infinity.", nameof(logits));
        }

        if (options.Temperature == 0)
        {
            return best;
        }

        var cutsByRank = options.TopK > 0 && options.TopK < logits.Length;
        if (cutsByRank || options.TopP < 1)
        {
            heap.Fill(scores, logits.Length);
        }

        var kept = cutsByRank ? options.TopK : logits.Length;
        for (var i = 0; i < kept; i++)
        {
            order[i] = cutsByRank ? heap.Take() : i;
        }

        var mass = Weigh(kept, scores[best]);
        if (options.TopP < 1)
        {
            (kept, mass) = CutToMass(kept, mass, isRanked: cutsByRank);
        }

        if (options.MinP > 0)
        {
            (kept, mass) = CutToLikely(kept);
        }

        return Draw(kept, mass);
    }

    private void Prepare(ReadOnlySpan<float> logits, IReadOnlySet<int> seen)
    {
        if (logits.IsEmpty)
        {
            throw new ArgumentException("TokenSampler: there must be at least one logit; got none.", nameof(logits));
        }

        if (scores.Length < logits.Length)
        {
            scores = new double[logits.Length];
            likelihoods = new double[logits.Length];
            order = new int[logits.Length];
        }

        for (var token = 0; token < logits.Length; token++)
        {
            if (float.IsNaN(logits[token]) || float.IsPositiveInfinity(logits[token]))
            {
                throw new ArgumentException($"TokenSampler: logits must be finite; token {token} has {logits[token]}.", nameof(logits));
            }

            scores[token] = logits[token];
        }

        if (options.RepetitionPenalty == 1)
        {
            return;
        }

        foreach (var token in seen)
        {
            scores[token] = scores[token] > 0 ? scores[token] / options.RepetitionPenalty : scores[token] * options.RepetitionPenalty;
        }
    }

    /// <summary>Computes the unnormalised probabilities of the candidates and returns their sum.</summary>
    private double Weigh(int kept, double best)
    {
        var mass = 0.0;
        foreach (var token in order.AsSpan(0, kept))
        {
            likelihoods[token] = Math.Exp((scores[token] - best) / options.Temperature);
            mass += likelihoods[token];
        }

        return mass;
    }

    /// <summary>Keeps the fewest candidates that have the mass; those that are not ranked yet are, one after the other.</summary>
    private (int Kept, double Mass) CutToMass(int kept, double mass, bool isRanked)
    {
        var sum = 0.0;
        for (var i = 0; i < kept; i++)
        {
            order[i] = isRanked ? order[i] : heap.Take();
            sum += likelihoods[order[i]];
            if (sum >= options.TopP * mass)
            {
                return (i + 1, sum);
            }
        }

        return (kept, mass);
    }

    /// <summary>Keeps the candidates that are likely enough, in their order. The likeliest, whose score is 1, always stays.</summary>
    private (int Kept, double Mass) CutToLikely(int candidates)
    {
        var (kept, mass) = (0, 0.0);
        for (var i = 0; i < candidates; i++)
        {
            if (likelihoods[order[i]] >= options.MinP)
            {
                mass += likelihoods[order[i]];
                order[kept++] = order[i];
            }
        }

        return (kept, mass);
    }

    private int Draw(int kept, double mass)
    {
        var remaining = random.NextDouble() * mass;
        for (var i = 0; i < kept - 1; i++)
        {
            remaining -= likelihoods[order[i]];
            if (remaining < 0)
            {
                return order[i];
            }
        }

        return order[kept - 1];
    }
}

/// <summary>Span helpers of the sampler.</summary>
internal static class ScoreSpan
{
    /// <summary>The first place of the largest value.</summary>
    /// <param name="values">At least one value.</param>
    /// <returns>The place.</returns>
    public static int IndexOfMaximum(this Span<double> values)
    {
        var best = 0;
        for (var i = 1; i < values.Length; i++)
        {
            if (values[i] > values[best])
            {
                best = i;
            }
        }

        return best;
    }
}
