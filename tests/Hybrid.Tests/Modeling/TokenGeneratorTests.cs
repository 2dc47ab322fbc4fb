using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

public class TokenGeneratorTests
{
    private static readonly int[] Prompt = [7, 3, 3, 21, 9];

    [Theory]
    [InlineData(1.0)]
    [InlineData(1.3)]
    public void GreedyDecodingEqualsRepeatedForwardPasses(double penalty)
    {
        using var model = SmallModel.Create();
        using var generator = new TokenGenerator(model, Greedy(20) with { RepetitionPenalty = penalty });
        var expected = GreedyByHand(model, Prompt, 20, penalty);
        Assert.True(expected.Distinct().Count() > 4, "the text must vary, or the test says little");
        Assert.Equal(expected, generator.Generate(Prompt));
    }

    [Fact]
    public void ThePenaltyChangesTheText()
    {
        using var model = SmallModel.Create();
        Assert.NotEqual(GreedyByHand(model, Prompt, 20, 1), GreedyByHand(model, Prompt, 20, 1.3));
    }

    [Fact]
    public void OneSeedGivesOneText()
    {
        using var model = SmallModel.Create();
        var options = new GenerationOptions { MaxNewTokens = 30, Seed = 12, TopK = 10 };
        Assert.Equal(Run(options), Run(options));
        Assert.NotEqual(Run(options), Run(options with { Seed = 13 }));

        int[] Run(GenerationOptions options)
        {
            using var generator = new TokenGenerator(model, options);
            return [.. generator.Generate(Prompt)];
        }
    }

    [Fact]
    public void AStopTokenEndsTheTextAndIsNotReturned()
    {
        using var model = SmallModel.Create();
        var all = GreedyByHand(model, Prompt, 20, 1);
        var stop = all[Array.FindIndex(all, token => token != all[0])];
        using var generator = new TokenGenerator(model, Greedy(20) with { StopTokens = [stop, 39] });
        Assert.Equal(all.TakeWhile(token => token != stop && token != 39), generator.Generate(Prompt));
    }

    [Fact]
    public void PromptAndContinuationEndAtTheLongestSequence()
    {
        using var model = SmallModel.Create(SmallModel.Options(maxLength: 12));
        var unbounded = GreedyByHand(model, Prompt, 7, 1);
        using var generator = new TokenGenerator(model, Greedy(100));
        Assert.Equal(unbounded, generator.Generate(Prompt));
        using var full = new TokenGenerator(model, Greedy(100));
        Assert.Empty(full.Generate([.. Prompt, .. unbounded]));
    }

    [Fact]
    public void ASecondPromptFollowsWhatWasGenerated()
    {
        using var model = SmallModel.Create();
        int[] second = [30, 31];
        using var generator = new TokenGenerator(model, Greedy(6));
        var first = generator.Generate(Prompt).ToArray();
        Assert.Equal(6, first.Length);
        Assert.Equal(GreedyByHand(model, [.. Prompt, .. first, .. second], 6, 1), generator.Generate(second));
    }

    [Fact]
    public void ASecondPromptFollowsATextThatTheCallerCutShort()
    {
        using var model = SmallModel.Create();
        int[] second = [30, 31];
        using var generator = new TokenGenerator(model, Greedy(6));
        var first = generator.Generate(Prompt).Take(3).ToArray();
        Assert.Equal(GreedyByHand(model, [.. Prompt, .. first, .. second], 6, 1), generator.Generate(second));
    }

    [Fact]
    public void ASecondPromptFollowsTheTextBeforeAStopToken()
    {
        using var model = SmallModel.Create();
        int[] second = [30, 31];
        var all = GreedyByHand(model, Prompt, 20, 1);
        var stop = all[Array.FindIndex(all, token => token != all[0])];
        using var generator = new TokenGenerator(model, Greedy(6) with { StopTokens = [stop] });
        var first = generator.Generate(Prompt).ToArray();
        Assert.Equal(
            GreedyByHand(model, [.. Prompt, .. first, .. second], 6, 1).TakeWhile(token => token != stop), generator.Generate(second));
    }

    [Fact]
    public void TokensArriveOneByOne()
    {
        using var model = SmallModel.Create();
        using var generator = new TokenGenerator(model, Greedy(6));
        Assert.Equal(0, generator.State.Position);
        using var tokens = generator.Generate(Prompt).GetEnumerator();
        for (var count = 0; count < 6; count++)
        {
            Assert.True(tokens.MoveNext());
            Assert.Equal(Prompt.Length + count, generator.State.Position);
        }

        Assert.False(tokens.MoveNext());
    }

    [Fact]
    public void NoTokensAreGeneratedWhereNoneAreAskedFor()
    {
        using var model = SmallModel.Create();
        using var generator = new TokenGenerator(model, Greedy(0));
        Assert.Empty(generator.Generate(Prompt));
    }

    [Fact]
    public void TheModelIsPutIntoEvaluationMode()
    {
        using var model = SmallModel.Create(SmallModel.Options() with { DropoutRate = 0.4 });
        var expected = GreedyByHand(model, Prompt, 5, 1);
        model.train();
        using var generator = new TokenGenerator(model, Greedy(5));
        Assert.Equal(expected, generator.Generate(Prompt));
    }

    [Fact]
    public void PromptsThatDoNotFitAreNamed()
    {
        using var model = SmallModel.Create(SmallModel.Options(maxLength: 12));
        using var generator = new TokenGenerator(model, Greedy(3));
        Expect("TokenGenerator: the prompt must have at least one token; got none.", []);
        Expect("TokenGenerator: a token must be 0..39; got 40.", [3, 40]);
        Expect("TokenGenerator: a token must be 0..39; got -1.", [-1]);
        Expect("TokenGenerator: the sequence would have 13 tokens; max_seq_len is 12.", new int[13]);
        Assert.Equal(3, generator.Generate(Prompt).Count());
        Expect("TokenGenerator: the sequence would have 13 tokens; max_seq_len is 12.", new int[5]);

        void Expect(string text, int[] prompt) => Assert.StartsWith(
            text, Assert.Throws<ArgumentException>(() => generator.Generate(prompt)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void GeneratingLeavesNoTensorAndNoModeBehind()
    {
        using var model = SmallModel.Create();
        Run();
        var before = LiveTensors.Before();
        for (var run = 0; run < 5; run++)
        {
            Run();
        }

        Assert.Equal(before, Tensor.TotalCount);
        Assert.True(is_grad_enabled());

        void Run()
        {
            using var generator = new TokenGenerator(model, Greedy(4));
            foreach (var _ in generator.Generate(Prompt))
            {
                Assert.True(is_grad_enabled(), "the caller's mode between two tokens is its own");
            }
        }
    }

    private static GenerationOptions Greedy(int count) => new() { MaxNewTokens = count, Temperature = 0 };

    /// <summary>The largest logit of a whole forward pass, again and again; the penalty counts a token once, however often it occurred.</summary>
    private static int[] GreedyByHand(CausalLanguageModel model, int[] prompt, int count, double penalty)
    {
        var tokens = prompt.ToList();
        for (var i = 0; i < count; i++)
        {
            var logits = SmallModel.NextLogits(model, tokens).Select(value => (double)value).ToArray();
            foreach (var token in tokens.Distinct())
            {
                logits[token] = logits[token] > 0 ? logits[token] / penalty : logits[token] * penalty;
            }

            tokens.Add(Array.IndexOf(logits, logits.Max()));
        }

        return [.. tokens.Skip(prompt.Length)];
    }
}
