using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

public class BatchGeneratorTests
{
    private static readonly int[][] Prompts = [[7, 3, 3, 21, 9], [5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [5], [30, 31, 32]];

    [Theory]
    [InlineData(0.0, 512)]
    [InlineData(1.0, 512)]
    [InlineData(1.0, 4)]   // rows of both routes
    public void EachRowIsWhatItsPromptGivesAlone(double temperature, long mambaThreshold)
    {
        using var model = SmallModel.Create(SmallModel.Options(mambaThreshold: mambaThreshold));
        var options = new GenerationOptions { MaxNewTokens = 20, Temperature = temperature, Seed = 4, RepetitionPenalty = 1.1, StopTokens = [17, 39] };
        using var batch = new BatchGenerator(model, Prompts, options);
        var rows = Collect(batch);
        for (var row = 0; row < Prompts.Length; row++)
        {
            using var alone = new TokenGenerator(model, options with { Seed = 4 + row });
            Assert.Equal(alone.Generate(Prompts[row]), rows[row]);
            Assert.Equal(alone.FinishReason, batch.FinishReasons[row]);
        }

        Assert.True(rows.Select(row => row.Count).Distinct().Count() > 1, "rows must end at different times, or the test says little");
    }

    [Fact]
    public void PromptsOfOneLengthNeedNoPadding()
    {
        using var model = SmallModel.Create();
        var options = new GenerationOptions { MaxNewTokens = 12, Temperature = 0 };
        int[][] prompts = [[1, 2, 3], [9, 8, 7]];
        using var batch = new BatchGenerator(model, prompts, options);
        var rows = Collect(batch);
        using var alone = new TokenGenerator(model, options);
        Assert.Equal(alone.Generate(prompts[1]), rows[1]);
    }

    [Fact]
    public void ARowEndsAtTheLongestSequenceWithoutTheOthers()
    {
        using var model = SmallModel.Create(SmallModel.Options(maxLength: 14));
        using var batch = new BatchGenerator(model, [.. Prompts, [.. Enumerable.Range(0, 14)]], new() { MaxNewTokens = 6, Temperature = 0 });
        Assert.Equal([6, 6, 2, 6, 6, 0], Collect(batch).Select(row => row.Count));
        Assert.Equal(FinishReason.MaxSeqLen, batch.FinishReasons[2]);
        Assert.Equal(FinishReason.MaxNewTokens, batch.FinishReasons[0]);
    }

    [Fact]
    public void AStoppedRowLeavesTheOthersAlone()
    {
        using var model = SmallModel.Create();
        var options = new GenerationOptions { MaxNewTokens = 15, Seed = 1 };
        using var all = new BatchGenerator(model, Prompts, options);
        var expected = Collect(all);
        using var batch = new BatchGenerator(model, Prompts, options);
        var rows = Prompts.Select(_ => new List<int>()).ToArray();
        foreach (var (row, token) in batch.Generate())
        {
            rows[row].Add(token);
            if (row == 1 && rows[row].Count == 3)
            {
                batch.Stop(1);
            }
        }

        Assert.Equal(expected[1].Take(3), rows[1]);
        Assert.Equal(expected.Where((_, row) => row != 1), rows.Where((_, row) => row != 1));
    }

    [Fact]
    public void TextsAreThoseOfEachPromptAlone()
    {
        using var model = TextModel.Create();
        string[] prompts = ["Grüße", "a", "one two three"];
        var options = new GenerationOptions { MaxNewTokens = 60, Seed = 8, StopStrings = ["e", "~"] };
        var expected = prompts.Select((prompt, row) => string.Concat(model.Generate(prompt, options with { Seed = 8 + row })));
        Assert.Equal(expected, model.GenerateBatch(prompts, options));
        using var source = new CancellationTokenSource();
        source.Cancel();
        Assert.Throws<OperationCanceledException>(() => model.GenerateBatch(prompts, options, source.Token));
    }

    [Fact]
    public void NoTensorStaysBehind()
    {
        using var model = SmallModel.Create();
        Run();
        var before = LiveTensors.Before();
        Run();
        Assert.Equal(before, Tensor.TotalCount);

        void Run()
        {
            using var batch = new BatchGenerator(model, Prompts, new() { MaxNewTokens = 10, Seed = 4, StopTokens = [17, 39, 3] });
            Assert.NotEmpty(batch.Generate().Take(30).ToArray());
        }
    }

    /// <summary>All logits of the prefill below are 4 x 256 x 8192 numbers, 32 MiB; those of the last tokens 128 KiB.</summary>
    [Fact]
    public void ARaggedPrefillComputesTheLogitsOfTheLastTokensAlone()
    {
        ResidentMemory.SkipUnlessMeasured();
        const int longest = 256;
        using var model = SmallModel.Create(new LanguageModelOptions { VocabSize = 8192, HiddenSize = 8, NumLayers = 1, Layers = ["mamba"], MaxSeqLen = 512 });
        int[][] prompts = [.. Enumerable.Range(1, 4).Select(row => Enumerable.Range(0, longest * row / 4).ToArray())];
        Run();
        var peak = ResidentMemory.PeakOf(Run);
        Assert.True(peak < 16L << 20, $"the prefill took {peak >> 20} MiB");

        void Run()
        {
            using var batch = new BatchGenerator(model, prompts, new() { MaxNewTokens = 1, Seed = 1 });
            Assert.Equal(4, batch.Generate().Count());
        }
    }

    [Fact]
    public void PromptsThatAreNoneAreRefused()
    {
        using var model = SmallModel.Create();
        Expect("BatchGenerator: there must be at least one prompt; got none.", []);
        Expect("BatchGenerator: the prompt must have at least one token; got none.", [[1], []]);
        Expect("BatchGenerator: a token must be 0..39; got 40.", [[1], [40]]);
        Expect("BatchGenerator: the sequence would have 65 tokens; max_seq_len is 64.", [new int[65]]);
        using var batch = new BatchGenerator(model, Prompts, new() { MaxNewTokens = 0 });
        Assert.Empty(batch.Generate());
        Assert.Throws<InvalidOperationException>(() => batch.Generate());

        void Expect(string text, int[][] prompts) =>
            Assert.StartsWith(text, Assert.Throws<ArgumentException>(() => new BatchGenerator(model, prompts)).Message, StringComparison.Ordinal);
    }

    private static List<int>[] Collect(BatchGenerator batch)
    {
        var rows = Prompts.Append([]).Select(_ => new List<int>()).ToArray();
        foreach (var (row, token) in batch.Generate())
        {
            rows[row].Add(token);
        }

        return [.. rows.Take(batch.FinishReasons.Count)];
    }
}
