using Hybrid.Modeling;
using Xunit;

namespace Hybrid.Tests.Modeling;

public class TextScoreTests
{
    [Fact]
    public void TheScoreIsTheSumOverPrefixes()
    {
        using var model = SmallModel.Create(embeddingScale: 3);
        int[] tokens = [7, 3, 3, 21, 9, 0, 39, 12];
        var expected = Enumerable.Range(1, tokens.Length - 1).Select(count =>
        {
            var logits = SmallModel.NextLogits(model, tokens[..count]);
            return logits[tokens[count]] - Math.Log(logits.Sum(logit => Math.Exp(logit)));
        }).ToArray();
        var score = model.Score(tokens);
        Assert.Equal(expected.Length, score.TokenLogLikelihoods.Count);
        Assert.All(expected.Zip(score.TokenLogLikelihoods), pair => Assert.Equal(pair.First, pair.Second, 1e-4));
        Assert.Equal(expected.Sum(), score.LogLikelihood, 1e-3);
        Assert.Equal(Math.Exp(-expected.Average()), score.Perplexity, 1e-2);
    }

    [Fact]
    public void ATextIsScoredByItsTokens()
    {
        using var model = TextModel.Create();
        Assert.Equal(model.Score(new ByteTokenizer().Encode("Grüße")).TokenLogLikelihoods, model.Score("Grüße").TokenLogLikelihoods);
    }

    [Fact]
    public void TheLossOfTrainingIsTheMeanOfTheScore()
    {
        using var model = SmallModel.Create();
        int[] tokens = [1, 5, 9, 13, 2, 2];
        using var input = TorchSharp.torch.tensor(tokens[..^1].Select(token => (long)token).ToArray()).unsqueeze(0);
        using var targets = TorchSharp.torch.tensor(tokens[1..].Select(token => (long)token).ToArray()).unsqueeze(0);
        using var loss = model.Loss(input, targets);
        Assert.Equal(-model.Score(tokens).LogLikelihood / 5, TorchSharp.TensorExtensionMethods.ToSingle(loss), 1e-4);
    }

    [Fact]
    public void TextsWithoutATokenToScoreAreRefused()
    {
        using var model = TextModel.Create(maxLength: 8);
        Assert.Throws<ArgumentException>(() => model.Score(""));
        Assert.Throws<ArgumentException>(() => model.Score("a"));
        Assert.Throws<ArgumentException>(() => model.Score("123456789"));
    }
}
