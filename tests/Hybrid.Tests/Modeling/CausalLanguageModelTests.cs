using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Layers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Modeling;

public class CausalLanguageModelTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void LogitsAreTheBackboneTimesTheHead(bool tied)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = SmallModel.Create(SmallModel.Options() with { TieEmbeddings = tied });
        var ids = SmallModel.Tokens(2, 7);
        var embedding = model.get_parameter("embedding.weight")!;
        var head = model.get_parameter("lm_head.weight");
        Assert.Equal(tied, head is null);
        var embedded = embedding.index_select(0, ids.view(-1)).view(2, 7, 16);
        var expected = model.Backbone.call(embedded).view(14, 16).mm((head ?? embedding).t()).view(2, 7, 40);
        TensorAssert.Close(expected, model.call(ids), 1e-6, "logits");
        Assert.Null(model.get_parameter("lm_head.bias"));
    }

    [Fact]
    public void ATiedHeadCountsOnce()
    {
        using var tied = SmallModel.Create(SmallModel.Options() with { TieEmbeddings = true });
        using var untied = SmallModel.Create();
        Assert.Equal(tied.Backbone.CountParameters() + (40 * 16), tied.CountParameters());
        Assert.Equal(tied.CountParameters() + (40 * 16), untied.CountParameters());
    }

    [Fact]
    public void TheLossIsTheMeanOfMinusLogSoftmax()
    {
        using var scope = NewDisposeScope();
        using var model = SmallModel.Create();
        var (ids, targets) = (SmallModel.Tokens(2, 5), SmallModel.Tokens(2, 5, seed: 2));
        Assert.Equal(MeanLoss(model, ids, targets), model.Loss(ids, targets).ToDouble(), 1e-5);
    }

    [Fact]
    public void TargetsOfMinusHundredAreLeftOut()
    {
        using var scope = NewDisposeScope();
        using var model = SmallModel.Create();
        var (ids, targets) = (SmallModel.Tokens(2, 5), SmallModel.Tokens(2, 5, seed: 2));
        targets[0, 3] = tensor(-100L);
        targets[1, 0] = tensor(-100L);
        Assert.Equal(MeanLoss(model, ids, targets), model.Loss(ids, targets).ToDouble(), 1e-5);
    }

    [Fact]
    public void AFreshModelGuessesEvenly()
    {
        using var scope = NewDisposeScope();
        using var model = SmallModel.Create(embeddingScale: 1);
        Assert.Equal(Math.Log(40), model.Loss(SmallModel.Tokens(4, 30), SmallModel.Tokens(4, 30, seed: 2)).ToDouble(), 0.05);
    }

    [Fact]
    public void NextTokenLogitsAreThoseOfTheLastTokenOfEachRow()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = SmallModel.Create();
        var ids = SmallModel.Tokens(3, 9);
        long[] lengths = [9, 4, 1];
        foreach (var context in new[]
        {
            MixerContext.None,
            new MixerContext { Lengths = lengths },
            new MixerContext { Lengths = lengths, PaddingSide = PaddingSide.Left },
        })
        {
            var all = model.forward(ids, context);
            var isRight = context.Lengths is not null && context.PaddingSide == PaddingSide.Right;
            var expected = stack([.. lengths.Select((length, row) => all[row][isRight ? length - 1 : 8])]);
            TensorAssert.Close(expected, model.NextTokenLogits(ids, context), 1e-6, $"{context.PaddingSide}, {isRight}");
        }

        Assert.Throws<ArgumentException>(() => model.NextTokenLogits(ids, new MixerContext { Lengths = [9, 9] }));
    }

    [Theory]
    [InlineData(512)]
    [InlineData(1)]
    public void CachedDecodingEqualsTheWholeSequenceAtEveryPrefix(long mambaThreshold)
    {
        const int time = 20;
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = SmallModel.Create(SmallModel.Options(mambaThreshold: mambaThreshold));
        var ids = SmallModel.Tokens(2, time);
        var whole = model.call(ids);
        for (var prefix = 1; prefix < time; prefix++)
        {
            using var inner = NewDisposeScope();
            using var state = model.CreateState(2);
            var context = new MixerContext { State = state };
            TensorAssert.Close(whole.narrow(1, 0, prefix), model.forward(ids.narrow(1, 0, prefix), context), 1e-5, $"prefill of {prefix}");
            for (var t = prefix; t < time; t++)
            {
                TensorAssert.Close(whole.select(1, t), model.NextTokenLogits(ids.narrow(1, t, 1), context), 1e-5, $"prefill of {prefix}, token {t}");
            }
        }
    }

    [Fact]
    public void TheLongestSequenceIsALimit()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = SmallModel.Create(SmallModel.Options(maxLength: 8));
        model.call(SmallModel.Tokens(1, 8));
        Expect("CausalLanguageModel: the sequence would have 9 tokens; max_seq_len is 8.", () => model.call(SmallModel.Tokens(1, 9)));

        using var state = model.CreateState(1);
        var context = new MixerContext { State = state };
        model.forward(SmallModel.Tokens(1, 6), context);
        Expect("CausalLanguageModel: the sequence would have 9 tokens; max_seq_len is 8.", () => model.forward(SmallModel.Tokens(1, 3), context));
        Assert.Equal(6, state.Position);
        model.forward(SmallModel.Tokens(1, 2), context);
        Assert.Equal(8, state.Position);
        Assert.Equal([8, 8], state.Parts.Select(part => part switch
        {
            KeyValueState cache => cache.Capacity,
            RoutedState { Inner: KeyValueState cache } => cache.Capacity,
            _ => 0,
        }).Where(capacity => capacity > 0));
    }

    [Fact]
    public void WhatIsNoTokenMatrixIsRefused()
    {
        using var scope = NewDisposeScope();
        using var model = SmallModel.Create();
        const string text = "CausalLanguageModel: ids must be Int64 [B, T] with B, T >= 1; got ";
        Expect(text + "Int32 [2, 3].", () => model.call(zeros(2, 3, dtype: ScalarType.Int32)));
        Expect(text + "Int64 [6].", () => model.call(zeros(6, dtype: ScalarType.Int64)));
        Expect(text + "Int64 [2, 0].", () => model.call(zeros(2, 0, dtype: ScalarType.Int64)));
        Expect(text + "Int64 [1, 2, 3].", () => model.NextTokenLogits(zeros(1, 2, 3, dtype: ScalarType.Int64), MixerContext.None));
        Expect(
            "CausalLanguageModel: targets must be [2, 3], like the ids; got [2, 4].",
            () => model.Loss(SmallModel.Tokens(2, 3), SmallModel.Tokens(2, 4)));
    }

    [Theory]
    [InlineData(true, 6)]
    [InlineData(false, 3)]
    public void ResidualOutputsAreScaledDownByTheNumberOfBranches(bool feedForward, int branches)
    {
        using var scope = NewDisposeScope();
        var options = SmallModel.Options() with { FeedForward = feedForward ? new() { IntermediateSize = 24 } : null };
        manual_seed(8);
        using var model = new CausalLanguageModel(options);

        // The same draws without the model: its embedding, then the stack.
        manual_seed(8);
        using var embedding = nn.Embedding(40, 16);
        var builder = new BackboneBuilder(16).WithPattern(options.ResolvePattern()).WithBlocks(new BlockOptions { FeedForward = options.FeedForward });
        foreach (var (name, mixer) in options.Mixers)
        {
            builder.WithMixer(name, mixer);
        }

        using var plain = builder.Build();
        var scaled = 0;
        foreach (var (name, weight) in plain.state_dict())
        {
            var outputs = name.EndsWith("out_proj.weight", StringComparison.Ordinal) || name.EndsWith("o_proj.weight", StringComparison.Ordinal)
                || name.EndsWith("down_proj.weight", StringComparison.Ordinal);
            scaled += outputs ? 1 : 0;
            var expected = outputs ? weight / Math.Sqrt(branches) : weight;
            TensorAssert.Close(expected, model.Backbone.state_dict()[name], 1e-6, name);
        }

        Assert.Equal(feedForward ? 7 : 4, scaled);
    }

    [Theory]
    [InlineData("embedding.weight")]
    [InlineData("lm_head.weight")]
    public void EmbeddingAndHeadStartSmall(string name)
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 500), embeddingScale: 1);
        var values = Values.Of(model.get_parameter(name)!);

        // 8000 draws of deviation 0.02: the mean is within 5 standard errors of 0, the deviation within 5 percent.
        Assert.Equal(0, values.Average(), 5 * 0.02 / Math.Sqrt(8000));
        Assert.Equal(0.02, Math.Sqrt(values.Average(value => value * value)), 0.001);
    }

    [Fact]
    public void DropoutActsOnTheEmbeddingAndTheBranchesWhileTraining()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = SmallModel.Create(SmallModel.Options() with { DropoutRate = 0.3 });
        var ids = SmallModel.Tokens(1, 6);
        TensorAssert.Identical(model.call(ids), model.call(ids), "in evaluation");
        model.train();
        Assert.True(TensorAssert.RelativeError(model.call(ids), model.call(ids)) > 1e-2);
    }

    [Fact]
    public void RoutersAndTokenizerComeFromTheOptions()
    {
        using var model = SmallModel.Create();
        Assert.Same(model.Backbone.Blocks[2].Mixer, Assert.Single(model.Routers));
        Assert.Null(model.Tokenizer);
        using var bytes = SmallModel.Create(SmallModel.Options(vocabulary: 256));
        Assert.IsType<ByteTokenizer>(bytes.Tokenizer);
        Assert.Equal("mamba attention hybrid_attention", string.Join(' ', model.Backbone.Pattern.Mixers));
    }

    [Fact]
    public void LayersAreStatedInOneWay()
    {
        Assert.Equal("m m a m m a", new LanguageModelOptions().ResolvePattern().ToString());
        Assert.Equal("m a m a m a", new LanguageModelOptions { AttentionEvery = 2 }.ResolvePattern().ToString());
        Assert.Equal("a m m m m m", new LanguageModelOptions { AttentionLayers = [0] }.ResolvePattern().ToString());
        Assert.Equal("g a g a g a", new LanguageModelOptions { AttentionEvery = 2, Backbone = "gru" }.ResolvePattern().ToString());
        Expect(
            "LanguageModelOptions: Layers name every mixer; Backbone has no meaning beside them.",
            () => new LanguageModelOptions { Layers = ["mamba"], Backbone = "gru" }.ResolvePattern());
        Expect(
            "LanguageModelOptions: state the layers in one way only; got Layers and AttentionEvery.",
            () => new LanguageModelOptions { AttentionEvery = 2, Layers = ["mamba"] }.ResolvePattern());
        Expect(
            "LanguageModelOptions: state the layers in one way only; got AttentionEvery and AttentionLayers.",
            () => new LanguageModelOptions { AttentionEvery = 2, AttentionLayers = [1] }.ResolvePattern());
    }

    [Fact]
    public void OptionsOutOfRangeAreNamed()
    {
        Refuse("LanguageModelOptions.VocabSize must be at least 1; got 0.", new() { VocabSize = 0 });
        Refuse("LanguageModelOptions.HiddenSize must be at least 1; got 0.", new() { HiddenSize = 0 });
        Refuse("LanguageModelOptions.NumLayers must be at least 1; got 0.", new() { NumLayers = 0 });
        Refuse("LanguageModelOptions.MaxSeqLen must be at least 1; got 0.", new() { MaxSeqLen = 0 });
        Refuse("LanguageModelOptions.NormEps must be positive; got 0.", new() { NormEps = 0 });
        Refuse("LanguageModelOptions.DropoutRate must be 0 or more and below 1; got 1.", new() { DropoutRate = 1 });
        Refuse(
            "BackboneBuilder: options are given for 'attention', but no layer has it; the layers are mamba.",
            new() { NumLayers = 1, Mixers = new Dictionary<string, object> { ["attention"] = new AttentionOptions() } });

        static void Refuse(string text, LanguageModelOptions options) => Expect(text, () => new CausalLanguageModel(options));
    }

    private static void Expect(string text, Func<object> action) =>
        Assert.StartsWith(text, Assert.ThrowsAny<ArgumentException>(action).Message, StringComparison.Ordinal);

    /// <summary>Mean of log(sum exp logits) - logit of the target, over the targets that are not -100.</summary>
    private static double MeanLoss(CausalLanguageModel model, Tensor ids, Tensor targets)
    {
        var (logits, wanted) = (Values.Of(model.call(ids)), Values.Of(targets));
        var losses = wanted.Select((target, i) => (Target: (int)target, Row: logits[(i * 40)..((i + 1) * 40)]))
            .Where(entry => entry.Target != -100)
            .Select(entry => Math.Log(entry.Row.Sum(Math.Exp)) - entry.Row[entry.Target]);
        return losses.Average();
    }
}
