using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

public class PromptStateCacheTests
{
    private static readonly GenerationOptions Options = new() { MaxNewTokens = 12, Seed = 5 };
    private static readonly int[] Prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

    [Theory]
    [InlineData("attention")]
    [InlineData("mamba")]
    [InlineData("mamba", "attention")]
    public void APromptThatComesAgainIsComputedFromItsLastToken(params string[] layers)
    {
        using var model = Create( layers);
        using var cache = new PromptStateCache(model);
        var expected = Run(model, Prompt, null).Tokens;
        Same(expected, 0, Run(model, Prompt, cache));
        Same(expected, 9, Run(model, Prompt, cache));
        Assert.Equal(1, cache.Hits);
        Assert.Equal(1, cache.Misses);
    }

    [Theory]
    [InlineData("attention")]
    [InlineData("mamba")]
    [InlineData("mamba", "attention")]
    public void AConversationGoesOnFromItsWholePast(params string[] layers)
    {
        using var model = Create( layers);
        using var cache = new PromptStateCache(model);
        var first = Run(model, Prompt, cache).Tokens;
        int[] second = [.. Prompt, .. first, 50, 51, 52];
        Same(Run(model, second, null).Tokens, Prompt.Length + first.Length - 1, Run(model, second, cache));
    }

    [Fact]
    public void AttentionForgetsWhatComesAfterTheCommonPrefix()
    {
        using var model = Create( "attention");
        using var cache = new PromptStateCache(model);
        Run(model, Prompt, cache);
        int[] other = [.. Prompt[..6], 99, 98, 97];
        Same(Run(model, other, null).Tokens, 6, Run(model, other, cache));
        Same(Run(model, Prompt[..4], null).Tokens, 3, Run(model, Prompt[..4], cache));
    }

    [Fact]
    public void ARecurrenceCannotAndSaysSo()
    {
        using var model = Create( "attention", "mamba");
        using var cache = new PromptStateCache(model);
        Run(model, Prompt, cache);
        int[] other = [.. Prompt[..6], 99, 98, 97];
        using (var match = cache.Find(other))
        {
            Assert.Null(match.State);
            Assert.Contains("6 tokens are those of a stored prompt", match.Reason, StringComparison.Ordinal);
            Assert.Contains("MambaState cannot be taken back", match.Reason, StringComparison.Ordinal);
        }

        Same(Run(model, other, null).Tokens, 0, Run(model, other, cache));
        using var none = cache.Find([77]);
        Assert.Equal("no stored prompt begins alike", none.Reason);
    }

    [Fact]
    public void ARouterLooksAtTheWholePromptSoNothingIsReused()
    {
        using var model = Create( "attention", "hybrid_attention");
        using var cache = new PromptStateCache(model);
        Assert.StartsWith("HybridAttention chooses its branch for the whole prompt", cache.Obstacle, StringComparison.Ordinal);
        var expected = Run(model, Prompt, null).Tokens;
        Run(model, Prompt, cache);
        Same(expected, 0, Run(model, Prompt, cache));
        Assert.Equal(0, cache.Count);
        using var match = cache.Find(Prompt);
        Assert.Equal(cache.Obstacle, match.Reason);
    }

    [Fact]
    public void TheLongestAgreementWins()
    {
        using var model = Create( "mamba");
        using var cache = new PromptStateCache(model);
        foreach (var length in new[] { 3, 7, 5 })
        {
            using var state = Consume(model, Prompt[..length]);
            Assert.True(cache.Store(Prompt[..length], state));
        }

        using var match = cache.Find(Prompt);
        Assert.Equal(7, match.Length);
        Assert.Equal(7, match.State!.Position);
        using var covered = cache.Find(Prompt[..7]);
        Assert.Equal(5, covered.Length);
    }

    [Fact]
    public void TheBudgetHoldsAndTheOldestGoesFirst()
    {
        using var model = Create( "mamba");
        using var probe = Consume(model, [1]);
        using var cache = new PromptStateCache(model, maxBytes: 2 * probe.ByteSize);
        foreach (var first in new[] { 1, 2, 3 })
        {
            using var state = Consume(model, [first]);
            Assert.True(cache.Store([first], state));
            Assert.InRange(cache.ByteSize, 1, 2 * probe.ByteSize);
            using var used = cache.Find([1, 9]);
            Assert.Equal(1, used.Length);
        }

        using var evicted = cache.Find([2, 9]);
        Assert.Null(evicted.State);
        Assert.Equal(2, cache.Count);
        Assert.True(cache.Store([1], probe));
        Assert.Equal(2, cache.Count);

        using var small = new PromptStateCache(model, maxBytes: probe.ByteSize - 1);
        Assert.False(small.Store([1], probe));
        Assert.Equal(0, small.ByteSize);
    }

    [Fact]
    public void StatesAreIndependentAndFreed()
    {
        using var model = Create( "mamba", "attention");
        Use();
        var before = LiveTensors.Before();
        Use();
        Assert.Equal(before, Tensor.TotalCount);

        void Use()
        {
            using var cache = new PromptStateCache(model);
            var expected = Run(model, Prompt, cache).Tokens;
            using (var generator = new TokenGenerator(model, Options, cache))
            {
                Assert.Equal(3, generator.Generate(Prompt).Take(3).Count());
            }

            Assert.Equal(expected, Run(model, Prompt, cache).Tokens);
            using var unused = cache.Find(Prompt);
            Assert.NotNull(unused.State);
        }
    }

    [Fact]
    public void SeveralThreadsShareOne()
    {
        using var model = Create( "mamba");
        using var budget = Consume(model, [1]);
        using var cache = new PromptStateCache(model, 5 * budget.ByteSize);
        int[][] prompts = [.. Enumerable.Range(0, 4).Select(i => Prompt.Select(token => token + (i % 2 * 20)).Append(i).ToArray())];
        var expected = prompts.Select(prompt => Run(model, prompt, null).Tokens).ToArray();
        Parallel.For(0, 24, new ParallelOptions { MaxDegreeOfParallelism = 4 }, i => Assert.Equal(expected[i % 4], Run(model, prompts[i % 4], cache).Tokens));
        Assert.InRange(cache.ByteSize, 1, 5 * budget.ByteSize);
    }

    [Fact]
    public void WhatDoesNotBelongTogetherIsRefused()
    {
        using var model = Create( "mamba");
        using var other = Create( "mamba");
        using var cache = new PromptStateCache(model);
        using var state = Consume(model, [1, 2]);
        Assert.Contains("2 tokens", Assert.Throws<ArgumentException>(() => cache.Store([1, 2], model.CreateState(2))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => cache.Store([1], state));
        Assert.Throws<ArgumentException>(() => new TokenGenerator(other, Options, cache));
        cache.Store([1, 2], state);
        cache.Clear();
        Assert.Equal((0, 0L), (cache.Count, cache.ByteSize));
    }

    // Embeddings of such a size that another state gives another text.
    private static CausalLanguageModel Create(params string[] layers) => TextModel.Create(64, 20, layers);

    private static void Same(int[] tokens, int reused, (int[] Tokens, int Reused) actual)
    {
        Assert.Equal(tokens, actual.Tokens);
        Assert.Equal(reused, actual.Reused);
    }

    private static (int[] Tokens, int Reused) Run(CausalLanguageModel model, int[] prompt, PromptStateCache? cache)
    {
        using var generator = new TokenGenerator(model, Options, cache);
        return ([.. generator.Generate(prompt)], generator.ReusedTokens);
    }

    private static Hybrid.CompositeState Consume(CausalLanguageModel model, int[] tokens)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var state = model.CreateState(1);
        model.NextTokenLogits(tensor(tokens.Select(token => (long)token).ToArray()).unsqueeze(0), new MixerContext { State = state });
        return state;
    }
}
