using Hybrid.Tests.Layers;
using Hybrid.Training;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Training;

public sealed class TokenCorpusTests : IDisposable
{
    // Every token is its own place in the text, so that a window says where it was cut.
    private readonly TokenCorpus corpus = new([.. Enumerable.Range(0, 200)], 0.25);
    private readonly DisposeScope scope = NewDisposeScope();

    public void Dispose() => scope.Dispose();

    [Fact]
    public void TheEndIsHeldOut()
    {
        Assert.Equal((150, 50), (corpus.TrainingCount, corpus.ValidationCount));
        for (var step = 0; step < 50; step++)
        {
            var (ids, targets) = corpus.TrainingBatch(step, 1, 8, 20, CPU);
            Assert.All(Values.Of(ids).Concat(Values.Of(targets)), token => Assert.InRange(token, 0, 149));
        }

        foreach (var (ids, targets) in corpus.ValidationBatches(100, 8, 6, CPU))
        {
            Assert.All(Values.Of(ids).Concat(Values.Of(targets)), token => Assert.InRange(token, 150, 199));
        }
    }

    [Fact]
    public void TargetsAreTheNextTokens()
    {
        var batches = corpus.ValidationBatches(100, 8, 6, CPU).Append(corpus.TrainingBatch(3, 1, 8, 20, CPU));
        foreach (var (ids, targets) in batches)
        {
            Assert.Equal((ScalarType.Int64, ScalarType.Int64), (ids.dtype, targets.dtype));
            Assert.Equal(ids.shape, targets.shape);
            Assert.Equal(Values.Of(ids).Select(token => token + 1), Values.Of(targets));
            for (var row = 0; row < ids.size(0); row++)
            {
                var tokens = Values.Of(ids[row]);
                Assert.Equal(Enumerable.Range((int)tokens[0], tokens.Length).Select(token => (double)token), tokens);
            }
        }
    }

    [Fact]
    public void ABatchDependsOnSeedAndStepAlone()
    {
        var again = new TokenCorpus([.. Enumerable.Range(0, 200)], 0.25);
        corpus.TrainingBatch(0, 7, 8, 20, CPU);
        Assert.Equal(Starts(corpus, 5, 7), Starts(again, 5, 7));
        Assert.NotEqual(Starts(corpus, 5, 7), Starts(corpus, 6, 7));
        Assert.NotEqual(Starts(corpus, 5, 7), Starts(corpus, 5, 8));

        static double[] Starts(TokenCorpus corpus, long step, long seed) => Values.Of(corpus.TrainingBatch(step, seed, 8, 20, CPU).Ids.select(1, 0));
    }

    [Fact]
    public void EveryWindowOfTheTrainingPartIsDrawn()
    {
        var small = new TokenCorpus([.. Enumerable.Range(0, 20)], 0.5);
        var starts = Enumerable.Range(0, 40).SelectMany(step => Values.Of(small.TrainingBatch(step, 1, 8, 4, CPU).Ids.select(1, 0)));
        Assert.Equal([0, 1, 2, 3, 4, 5], starts.Distinct().Order());
    }

    [Fact]
    public void ValidationWindowsAreTheSameAtEveryCallAndDoNotOverlap()
    {
        // 50 tokens have room for 8 windows of 6 with their targets; 3 at a time.
        var batches = corpus.ValidationBatches(100, 3, 6, CPU).ToArray();
        Assert.Equal([3, 3, 2], batches.Select(batch => batch.Ids.size(0)));
        var starts = batches.SelectMany(batch => Values.Of(batch.Ids.select(1, 0))).ToArray();
        Assert.Equal([150, 156, 162, 168, 174, 180, 186, 192], starts);
        Assert.Equal(starts, corpus.ValidationBatches(100, 3, 6, CPU).SelectMany(batch => Values.Of(batch.Ids.select(1, 0))));
    }

    [Fact]
    public void FewerValidationWindowsAreSpreadOverTheHeldOutPart()
    {
        var starts = corpus.ValidationBatches(4, 8, 6, CPU).SelectMany(batch => Values.Of(batch.Ids.select(1, 0)));
        Assert.Equal([150, 162, 174, 186], starts);
    }

    [Fact]
    public void ATextShorterThanAWindowIsRefused()
    {
        corpus.TrainingBatch(0, 1, 2, 149, CPU);
        Assert.Single(corpus.ValidationBatches(9, 2, 49, CPU));
        Expect("TokenCorpus: the training part must have at least 151 tokens; got 150.", () => corpus.TrainingBatch(0, 1, 2, 150, CPU));
        Expect("TokenCorpus: the validation part must have at least 51 tokens; got 50.", () => corpus.ValidationBatches(9, 2, 50, CPU));

        static void Expect(string text, Func<object> action) =>
            Assert.StartsWith(text, Assert.Throws<ArgumentException>(action).Message, StringComparison.Ordinal);
    }
}
