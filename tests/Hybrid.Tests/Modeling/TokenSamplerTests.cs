using Hybrid.Modeling;
using Xunit;

namespace Hybrid.Tests.Modeling;

public class TokenSamplerTests
{
    private static readonly HashSet<int> None = [];

    [Fact]
    public void TemperatureZeroTakesTheFirstOfTheLargest()
    {
        var sampler = new TokenSampler(new GenerationOptions { Temperature = 0, TopK = 1, TopP = 0.1 });
        Assert.Equal(2, sampler.Sample([0.1f, -5, 3, 2.9f, 3], None));
        Assert.Equal(1, sampler.Sample([float.NegativeInfinity, -1e30f], None));
    }

    [Theory]
    [InlineData(1.0, new[] { 0.4, 0.3, 0.2, 0.1 })]
    [InlineData(0.5, new[] { 16 / 30.0, 9 / 30.0, 4 / 30.0, 1 / 30.0 })]   // squares, normalised
    public void DrawsWithTheProbabilitiesOfTheTemperature(double temperature, double[] expected) =>
        CheckFrequencies(new GenerationOptions { Temperature = temperature, Seed = 5 }, expected);

    [Theory]
    [InlineData(1, new[] { 1.0, 0, 0, 0 })]
    [InlineData(2, new[] { 4 / 7.0, 3 / 7.0, 0, 0 })]
    [InlineData(4, new[] { 0.4, 0.3, 0.2, 0.1 })]
    [InlineData(9, new[] { 0.4, 0.3, 0.2, 0.1 })]
    public void TopKDrawsFromTheMostLikely(int topK, double[] expected) =>
        CheckFrequencies(new GenerationOptions { TopK = topK, Seed = 6 }, expected);

    [Theory]
    [InlineData(1e-9, new[] { 1.0, 0, 0, 0 })]   // always one
    [InlineData(0.39, new[] { 1.0, 0, 0, 0 })]
    [InlineData(0.41, new[] { 4 / 7.0, 3 / 7.0, 0, 0 })]
    [InlineData(0.69, new[] { 4 / 7.0, 3 / 7.0, 0, 0 })]
    [InlineData(0.71, new[] { 4 / 9.0, 3 / 9.0, 2 / 9.0, 0 })]
    [InlineData(0.91, new[] { 0.4, 0.3, 0.2, 0.1 })]
    [InlineData(1.0, new[] { 0.4, 0.3, 0.2, 0.1 })]
    public void TopPDrawsFromTheSmallestSetWithTheMass(double topP, double[] expected) =>
        CheckFrequencies(new GenerationOptions { TopP = topP, Seed = 7 }, expected);

    [Theory]
    [InlineData(0.0, 1.0, 0, new[] { 0.4, 0.3, 0.2, 0.1 })]
    [InlineData(0.24, 1.0, 0, new[] { 0.4, 0.3, 0.2, 0.1 })]
    [InlineData(0.26, 1.0, 0, new[] { 4 / 9.0, 3 / 9.0, 2 / 9.0, 0 })]
    [InlineData(0.74, 1.0, 0, new[] { 4 / 7.0, 3 / 7.0, 0, 0 })]
    [InlineData(0.76, 1.0, 0, new[] { 1.0, 0, 0, 0 })]
    [InlineData(1.0, 1.0, 0, new[] { 1.0, 0, 0, 0 })]
    [InlineData(0.26, 0.41, 0, new[] { 4 / 7.0, 3 / 7.0, 0, 0 })]
    [InlineData(0.1, 1.0, 3, new[] { 4 / 9.0, 3 / 9.0, 2 / 9.0, 0 })]
    public void MinPDrawsFromThoseLikelyBesideTheLikeliest(double minP, double topP, int topK, double[] expected) =>
        CheckFrequencies(new GenerationOptions { MinP = minP, TopP = topP, TopK = topK, Seed = 11 }, expected);

    [Fact]
    public void TheCutsFollowTheTemperatureAndEachOther()
    {
        // At temperature 0.5 the first token has 0.533 of the mass, so 0.5 keeps it alone; at 1 it has 0.4 and would not suffice.
        CheckFrequencies(new GenerationOptions { Temperature = 0.5, TopP = 0.5, Seed = 8 }, [1, 0, 0, 0]);
        CheckFrequencies(new GenerationOptions { TopP = 0.5, Seed = 8 }, [4 / 7.0, 3 / 7.0, 0, 0]);

        // Among the first two the first has 0.571 of the mass: top-p counts within what top-k left.
        CheckFrequencies(new GenerationOptions { TopK = 2, TopP = 0.55, Seed = 8 }, [1, 0, 0, 0]);
    }

    [Fact]
    public void ThePenaltyComesFirstAndShrinksEitherSign()
    {
        var greedy = new TokenSampler(new GenerationOptions { Temperature = 0, RepetitionPenalty = 2 });
        Assert.Equal(0, greedy.Sample([2, 1.1f], None));
        Assert.Equal(1, greedy.Sample([2, 1.1f], new HashSet<int> { 0 }));
        Assert.Equal(0, greedy.Sample([2.3f, 1.1f], new HashSet<int> { 0 }));
        Assert.Equal(1, greedy.Sample([-1, -1.9f], new HashSet<int> { 0 }));
        Assert.Equal(0, greedy.Sample([-1, -2.1f], new HashSet<int> { 0 }));
        Assert.Equal(0, greedy.Sample([2, 1.1f], new HashSet<int> { 0, 1 }));

        // log 0.4 is -0.916: doubled it is log 0.16. What remains of the others is 0.3, 0.2, 0.1; together 0.76.
        CheckFrequencies(
            new GenerationOptions { RepetitionPenalty = 2, Seed = 9 }, [0.16 / 0.76, 0.3 / 0.76, 0.2 / 0.76, 0.1 / 0.76], new HashSet<int> { 0 });
    }

    [Fact]
    public void OneSeedGivesOneSequenceOfDraws()
    {
        var logits = Enumerable.Range(0, 50).Select(i => (float)Math.Sin(i)).ToArray();
        Assert.Equal(Draw(new GenerationOptions { Seed = 4 }), Draw(new GenerationOptions { Seed = 4 }));
        Assert.NotEqual(Draw(new GenerationOptions { Seed = 4 }), Draw(new GenerationOptions { Seed = 5 }));
        Assert.NotEqual(Draw(new GenerationOptions()), Draw(new GenerationOptions()));

        int[] Draw(GenerationOptions options)
        {
            var sampler = new TokenSampler(options);
            return [.. Enumerable.Range(0, 40).Select(_ => sampler.Sample(logits, None))];
        }
    }

    /// <summary>Ranking only what a cut keeps draws what sorting all tokens draws, ties and masked tokens included.</summary>
    [Theory]
    [InlineData(0, 1.0, 0.0)]
    [InlineData(1, 1.0, 0.0)]
    [InlineData(7, 1.0, 0.0)]
    [InlineData(7, 0.6, 0.2)]
    [InlineData(0, 0.3, 0.0)]
    [InlineData(0, 0.999999, 0.0)]
    [InlineData(299, 0.9, 0.01)]
    [InlineData(300, 0.9, 0.0)]
    public void DrawsAsFromSortedTokens(int topK, double topP, double minP)
    {
        var values = new Random(1);
        var sampler = new TokenSampler(new GenerationOptions { TopK = topK, TopP = topP, MinP = minP, Temperature = 0.8, Seed = 2 });
        var draws = new Random(2);
        for (var repeat = 0; repeat < 200; repeat++)
        {
            // Multiples of an eighth, so that there are ties.
            float[] logits = [.. Enumerable.Range(0, 300).Select(i => i % 50 == 3 ? float.NegativeInfinity : values.Next(-40, 40) / 8f)];
            Assert.Equal(FromSorted(logits, draws.NextDouble()), sampler.Sample(logits, None));
        }

        int FromSorted(float[] logits, double draw)
        {
            var best = logits.Max();
            var ranked = Enumerable.Range(0, logits.Length).ToArray();
            ranked = topK is > 0 and < 300 || topP < 1 ? [.. ranked.OrderByDescending(token => logits[token]).ThenBy(token => token)] : ranked;
            ranked = topK > 0 ? [.. ranked.Take(topK)] : ranked;
            double Likelihood(int token) => Math.Exp((logits[token] - best) / 0.8);
            if (topP < 1)
            {
                var (whole, sum, kept) = (ranked.Sum(Likelihood), 0.0, 0);
                for (; sum < topP * whole; kept++)
                {
                    sum += Likelihood(ranked[kept]);
                }

                ranked = ranked[..kept];
            }

            ranked = [.. ranked.Where(token => Likelihood(token) >= minP)];
            var remaining = draw * ranked.Sum(Likelihood);
            return ranked.FirstOrDefault(token => (remaining -= Likelihood(token)) < 0, ranked[^1]);
        }
    }

    [Fact]
    public void MaskedTokensAreNeverDrawn()
    {
        var sampler = new TokenSampler(new GenerationOptions { Seed = 3 });
        float[] logits = [float.NegativeInfinity, 0, float.NegativeInfinity, 0];
        Assert.All(Enumerable.Range(0, 500), _ => Assert.Contains(sampler.Sample(logits, None), new[] { 1, 3 }));
    }

    [Theory]
    [InlineData(1e-3)]
    [InlineData(1e-200)]
    public void ASmallTemperatureIsGreedy(double temperature)
    {
        var sampler = new TokenSampler(new GenerationOptions { Temperature = temperature, Seed = 3 });
        Assert.All(Enumerable.Range(0, 100), _ => Assert.Equal(1, sampler.Sample([88, 89, -88], None)));
    }

    [Fact]
    public void ASamplerTakesVocabulariesOfChangingSize()
    {
        var sampler = new TokenSampler(new GenerationOptions { Temperature = 0 });
        Assert.Equal(0, sampler.Sample([1], None));
        Assert.Equal(3, sampler.Sample([1, 2, 3, 4], None));
        Assert.Equal(1, sampler.Sample([1, 2], None));
    }

    [Fact]
    public void LogitsThatAreNoneAreRefused()
    {
        var (sampler, greedy) = (new TokenSampler(new GenerationOptions()), new TokenSampler(new GenerationOptions { Temperature = 0 }));
        Expect("TokenSampler: logits must be finite; token 1 has NaN.", [0, float.NaN]);
        Expect("TokenSampler: logits must be finite; token 0 has ", [float.PositiveInfinity, 0]);
        Expect("TokenSampler: there must be at least one logit; got none.", []);
        Expect("TokenSampler: at least one logit must be finite; all are negative infinity.", [float.NegativeInfinity, float.NegativeInfinity]);

        void Expect(string text, float[] logits)
        {
            Assert.StartsWith(text, Assert.Throws<ArgumentException>(() => sampler.Sample(logits, None)).Message, StringComparison.Ordinal);
            Assert.StartsWith(text, Assert.Throws<ArgumentException>(() => greedy.Sample(logits, None)).Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void OptionsOutOfRangeAreNamed()
    {
        Expect("GenerationOptions.MaxNewTokens must be at least 0; got -1.", new() { MaxNewTokens = -1 });
        Expect("GenerationOptions.Temperature must be at least 0; got -1.", new() { Temperature = -1 });
        Expect("GenerationOptions.Temperature must be at least 0; got NaN.", new() { Temperature = double.NaN });
        Expect("GenerationOptions.TopK must be at least 0; got -1.", new() { TopK = -1 });
        Expect("GenerationOptions.TopP must be positive; got 0.", new() { TopP = 0 });
        Expect("GenerationOptions.TopP must be 0..1; got 1.5.", new() { TopP = 1.5 });
        Expect("GenerationOptions.MinP must be 0..1; got -0.1.", new() { MinP = -0.1 });
        Expect("GenerationOptions.MinP must be 0..1; got NaN.", new() { MinP = double.NaN });
        Expect("GenerationOptions.RepetitionPenalty must be positive; got 0.", new() { RepetitionPenalty = 0 });

        static void Expect(string text, GenerationOptions options) => Assert.StartsWith(
            text, Assert.Throws<ArgumentOutOfRangeException>(() => new TokenSampler(options)).Message, StringComparison.Ordinal);
    }

    /// <summary>
    /// Draws 20,000 times from logits with probabilities 0.4, 0.3, 0.2, 0.1 in a shuffled order. Each count stays within 5 standard
    /// deviations of a binomial count, a probability of 0 or 1 is met exactly.
    /// </summary>
    private static void CheckFrequencies(GenerationOptions options, double[] expected, IReadOnlySet<int>? seen = null)
    {
        const int draws = 20_000;
        int[] place = [2, 0, 3, 1];
        var logits = new float[4];
        for (var i = 0; i < 4; i++)
        {
            logits[place[i]] = (float)Math.Log(0.4 - (0.1 * i));
        }

        var sampler = new TokenSampler(options);
        var marked = seen?.Select(token => place[token]).ToHashSet() ?? None;
        var counts = new int[4];
        for (var draw = 0; draw < draws; draw++)
        {
            counts[sampler.Sample(logits, marked)]++;
        }

        for (var i = 0; i < 4; i++)
        {
            var deviation = Math.Sqrt(draws * expected[i] * (1 - expected[i]));
            Assert.InRange(counts[place[i]], (draws * expected[i]) - (5 * deviation), (draws * expected[i]) + (5 * deviation));
        }
    }
}
