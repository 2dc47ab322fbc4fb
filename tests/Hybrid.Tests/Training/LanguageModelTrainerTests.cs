using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using Hybrid.Tests.Modeling;
using Hybrid.Training;
using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Training;

public class LanguageModelTrainerTests
{
    private static readonly TrainingOptions Options = new()
    {
        Steps = 60, BatchSize = 6, SequenceLength = 20, LearningRate = 1e-2, MinLearningRate = 1e-3, WarmupSteps = 5, ExploreEvery = 4, Seed = 5,
    };

    [Fact]
    public void MatricesDecayAndEveryParameterIsInOneGroup()
    {
        using var model = SmallModel.Create(SmallModel.Options() with { FeedForward = new() { Kind = Hybrid.Layers.FeedForwardKind.Gelu } });
        using var optimizer = LanguageModelTrainer.CreateOptimizer(model, Options with { WeightDecay = 0.3, Beta1 = 0.8, Beta2 = 0.95 });
        var groups = optimizer.ParamGroups.Cast<AdamW.ParamGroup>().ToArray();
        Assert.All(groups, group => Assert.Equal((0.8, 0.95), group.Betas));
        var names = model.named_parameters().ToDictionary(entry => entry.parameter.Handle, entry => entry.name);
        var byDecay = groups.ToLookup(group => group.Options.weight_decay, group => group.Parameters.Select(parameter => names[parameter.Handle]));
        var decayed = Assert.Single(byDecay[0.3]).ToArray();
        var free = Assert.Single(byDecay[0.0]).ToArray();
        Assert.Equal(names.Values.Order(StringComparer.Ordinal), decayed.Concat(free).Order(StringComparer.Ordinal));

        Assert.Contains("embedding.weight", decayed);
        Assert.Contains("backbone.layers.0.mixer.conv1d.weight", decayed);
        Assert.Contains("backbone.layers.2.mixer.mamba.A_log", free);
        Assert.All(names.Values, name => Assert.Equal(
            name.EndsWith("norm.weight", StringComparison.Ordinal) || name.EndsWith("norm_f.weight", StringComparison.Ordinal)
                || name.EndsWith("bias", StringComparison.Ordinal) || name.EndsWith("A_log", StringComparison.Ordinal) || name.EndsWith(".D", StringComparison.Ordinal),
            free.Contains(name)));
    }

    [Fact]
    public void TheLossFallsOnARepeatedText()
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256), embeddingScale: 1);
        using var trainer = new LanguageModelTrainer(model, Text(), Options);
        var before = trainer.Evaluate();
        var first = trainer.TrainStep(0);
        Assert.Equal(Math.Log(256), first, 0.1);
        Assert.Equal(Math.Log(256), before, 0.1);
        for (var step = 1; step < Options.Steps; step++)
        {
            trainer.TrainStep(step);
        }

        // The text repeats 26 bytes, whose frequencies alone allow 2.81 nats: below that, their order has been learnt.
        Assert.InRange(trainer.Evaluate(), 0, 1.5);
    }

    [Fact]
    public void EvaluationIsTheMeanOverTheWindows()
    {
        using var scope = NewDisposeScope();
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256) with { DropoutRate = 0.5 });
        var corpus = Text(2500);
        using var trainer = new LanguageModelTrainer(model, corpus, Options);
        var losses = new List<double>();
        foreach (var (ids, targets) in corpus.ValidationBatches(40, 1, Options.SequenceLength, CPU))
        {
            losses.Add(model.Loss(ids, targets).ToDouble());
        }

        // 40 windows are a batch of 32 and one of 8, which weigh by their rows.
        Assert.Equal(40, losses.Count);
        model.train();
        Assert.Equal(losses.Average(), trainer.Evaluate(40), 1e-4);
        Assert.True(is_grad_enabled());
    }

    [Fact]
    public void OneSeedGivesOneRun()
    {
        var (first, second) = (Run(0), Run(3));
        Assert.Equal(first.Losses, second.Losses);
        Assert.Equal(first.Weights, second.Weights);
        Assert.NotEqual(first.Losses, Run(0, seed: 6).Losses);

        // A step does not depend on what else drew from torch's generator before it: a resumed run repeats an uninterrupted one.
        static (double[] Losses, double[] Weights) Run(int otherDraws, long seed = 5)
        {
            using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256) with { DropoutRate = 0.2 }, embeddingScale: 1);
            using var trainer = new LanguageModelTrainer(model, Text(), Options with { Seed = seed });
            var losses = Enumerable.Range(0, 6).Select(step =>
            {
                rand(otherDraws).Dispose();
                return trainer.TrainStep(step);
            }).ToArray();
            return (losses, Values.Of(model.get_parameter("embedding.weight")!));
        }
    }

    [Theory]
    [InlineData(512, Route.Attention)]
    [InlineData(8, Route.Mamba)]
    public void ExplorationTakesTheOtherBranchAtEveryFourthStep(long threshold, Route usual)
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256, mambaThreshold: threshold));
        using var trainer = new LanguageModelTrainer(model, Text(), Options);
        var router = Assert.Single(model.Routers);
        for (var step = 0; step < 9; step++)
        {
            trainer.TrainStep(step);
            var explored = step % 4 == 3;
            var last = router.GetMetrics().Last!.Value;
            Assert.Equal(explored, last.Reason == RoutingReason.Forced);
            Assert.Equal(explored != (usual == Route.Mamba) ? Route.Mamba : Route.Attention, last.Route);
            Assert.Null(router.Override);
        }

        Assert.Equal(9, router.GetMetrics().TotalDecisions);
    }

    [Fact]
    public void ExplorationTrainsBothBranches()
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256));
        using var trainer = new LanguageModelTrainer(model, Text(), Options with { WeightDecay = 0 });
        var name = "backbone.layers.2.mixer.mamba.in_proj.weight";
        var before = Values.Of(model.get_parameter(name)!);
        for (var step = 0; step < 3; step++)
        {
            trainer.TrainStep(step);
        }

        Assert.Equal(before, Values.Of(model.get_parameter(name)!));
        trainer.TrainStep(3);
        Assert.NotEqual(before, Values.Of(model.get_parameter(name)!));
    }

    [Fact]
    public void ExplorationLeavesTheCallersOverrideAlone()
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256));
        using var trainer = new LanguageModelTrainer(model, Text(), Options with { ExploreEvery = 1 });
        model.Routers[0].Override = Route.Attention;
        trainer.TrainStep(0);
        Assert.Equal(Route.Attention, model.Routers[0].GetMetrics().Last!.Value.Route);
        Assert.Equal(Route.Attention, model.Routers[0].Override);
    }

    [Fact]
    public void NoExplorationMeansNone()
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256));
        using var trainer = new LanguageModelTrainer(model, Text(), Options with { ExploreEvery = 0 });
        for (var step = 0; step < 4; step++)
        {
            trainer.TrainStep(step);
        }

        Assert.Equal(4, model.Routers[0].GetMetrics().AttentionCount);
    }

    [Fact]
    public void AStepThatFailsLeavesNoOverride()
    {
        // Token 100 is outside the model's vocabulary of 40.
        using var model = SmallModel.Create();
        using var trainer = new LanguageModelTrainer(model, new TokenCorpus([.. Enumerable.Repeat(100, 300)], 0.1), Options with { ExploreEvery = 1 });
        Assert.ThrowsAny<Exception>(() => trainer.TrainStep(0));
        Assert.Null(model.Routers[0].Override);
    }

    [Theory]
    [InlineData(1e-3)]
    [InlineData(0)]
    public void GradientsAreCutToTheNorm(double clip)
    {
        using var scope = NewDisposeScope();
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256));
        using var trainer = new LanguageModelTrainer(model, Text(), Options with { GradientClip = clip });
        trainer.TrainStep(0);
        var norm = Math.Sqrt(model.parameters().Where(parameter => parameter.grad is not null)
            .Sum(parameter => parameter.grad!.square().sum().ToDouble()));
        if (clip > 0)
        {
            Assert.Equal(clip, norm, 1e-5);
        }
        else
        {
            Assert.True(norm > 0.1, $"norm {norm}");
        }
    }

    [Fact]
    public void EachStepHasItsLearningRateAndTrainsInTrainingMode()
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256));
        using var trainer = new LanguageModelTrainer(model, Text(), Options);
        foreach (var step in new[] { 0, 4, 5, 40 })
        {
            model.eval();
            trainer.TrainStep(step);
            Assert.True(model.training);
            Assert.All(trainer.Optimizer.ParamGroups, group => Assert.Equal(Options.LearningRateAt(step), group.LearningRate));
        }
    }

    [Fact]
    public void StepsAndEvaluationsLeaveNoTensorBehind()
    {
        using var model = SmallModel.Create(SmallModel.Options(vocabulary: 256));
        using var trainer = new LanguageModelTrainer(model, Text(), Options with { ExploreEvery = 2 });
        Run(0);
        var before = LiveTensors.Before();
        Run(4);
        Assert.Equal(before, Tensor.TotalCount);

        void Run(int start)
        {
            for (var step = start; step < start + 4; step++)
            {
                trainer.TrainStep(step);
            }

            trainer.Evaluate(5);
        }
    }

    private static TokenCorpus Text(int length = 1500)
    {
        const string text = "the quick hybrid mixes on\n";
        return new TokenCorpus([.. Enumerable.Range(0, length).Select(i => (int)text[i % text.Length])], 0.4);
    }
}
