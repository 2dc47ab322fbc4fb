using System.Text.Json.Nodes;
using Hybrid.Checkpoints;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Training;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

public sealed class TrainingCheckpointTests : IDisposable
{
    private static readonly HybridConfig Config = new()
    {
        Model = new LanguageModelOptions
        {
            VocabSize = 23,
            HiddenSize = 12,
            NumLayers = 3,
            MaxSeqLen = 64,
            DropoutRate = 0.2,
            Layers = ["mamba", "attention", "hybrid_attention"],
            Mixers = new Dictionary<string, object>
            {
                ["mamba"] = new Hybrid.Mixers.MambaOptions { DState = 4 },
                ["attention"] = new Hybrid.Attention.AttentionOptions { NumHeads = 3 },
                ["hybrid_attention"] = new HybridAttentionOptions
                {
                    MambaThreshold = 32,
                    ResidualBranches = false,
                    AttentionConfig = new() { NumHeads = 2 },
                    MambaConfig = new() { DState = 4 },
                },
            },
        },
        Training = new TrainingOptions { Steps = 12, BatchSize = 3, SequenceLength = 9, WarmupSteps = 4, ExploreEvery = 3 },
    };

    private readonly TemporaryFolder folder = new();

    private string Target => folder.File("run");

    [Fact]
    public void AResumedRunRepeatsTheLossesAndWeightsOfAnUninterruptedOne()
    {
        using var whole = new Run();
        var expected = Enumerable.Range(0, 10).Select(whole.Trainer.TrainStep).ToArray();

        using (var first = new Run())
        {
            Assert.Equal(expected[..5], Enumerable.Range(0, 5).Select(first.Trainer.TrainStep));
            first.Save(Target, 5);
        }

        var checkpoint = TrainingCheckpoint.Open(Target);
        Assert.Equal(5, checkpoint.Step);
        using var second = new Run(seed: 99);
        checkpoint.LoadInto(second.Model);
        checkpoint.LoadOptimizer(second.Trainer.Optimizer, second.Model);
        Assert.Equal(expected[5..], Enumerable.Range(5, 5).Select(second.Trainer.TrainStep));
        AssertSameWeights(whole.Model, second.Model);
    }

    [Fact]
    public void EveryPartOfTheOptimizerComesBackBitForBit()
    {
        using var trained = new Run(steps: 4);
        trained.Save(Target, 4);
        using var fresh = new Run(seed: 99);
        TrainingCheckpoint.Open(Target).LoadOptimizer(fresh.Trainer.Optimizer, fresh.Model);

        var (want, got) = (trained.Trainer.Optimizer.state_dict(), fresh.Trainer.Optimizer.state_dict());
        foreach (var (expected, actual) in want.State.Cast<AdamW.State>().Zip(got.State.Cast<AdamW.State>()))
        {
            Assert.Equal(expected.step, actual.step);
            Assert.Equal(expected.exp_avg.data<float>().ToArray(), actual.exp_avg.data<float>().ToArray());
            Assert.Equal(expected.exp_avg_sq.data<float>().ToArray(), actual.exp_avg_sq.data<float>().ToArray());
        }

        // The branch that was first tried at step 2 has counted fewer steps than the others.
        Assert.NotEqual(want.State.Cast<AdamW.State>().Min(state => state.step), want.State.Cast<AdamW.State>().Max(state => state.step));
        foreach (var (expected, actual) in want.Options.Cast<AdamW.Options>().Zip(got.Options.Cast<AdamW.Options>()))
        {
            Assert.Equal(Config.Training!.LearningRateAt(3), actual.LearningRate);
            Assert.Equal(expected.InitialLearningRate, actual.InitialLearningRate);
            Assert.Equal((expected.beta1, expected.beta2), (actual.beta1, actual.beta2));
            Assert.Equal((expected.eps, expected.weight_decay), (actual.eps, actual.weight_decay));
        }
    }

    [Fact]
    public void OptionsOfTheOptimizerAreThoseOfTheCheckpoint()
    {
        using var saved = new Run();
        var all = saved.Model.parameters().ToArray();
        using var odd = new AdamW(
            [new AdamW.ParamGroup(all, lr: 0.1 + 0.2, beta1: 0.81, beta2: 0.93, eps: 1e-7, weight_decay: 1.0 / 3, amsgrad: true)]);
        TrainingCheckpoint.Save(Target, saved.Model, Config, odd, 0);

        using var loaded = new AdamW([new AdamW.ParamGroup(all, lr: 1, amsgrad: true)]);
        TrainingCheckpoint.Open(Target).LoadOptimizer(loaded, saved.Model);
        var options = (AdamW.Options)loaded.state_dict().Options[0];
        Assert.Equal((0.1 + 0.2, 0.1 + 0.2), (options.LearningRate, options.InitialLearningRate));
        Assert.Equal((0.81, 0.93, 1e-7, 1.0 / 3), (options.beta1, options.beta2, options.eps, options.weight_decay));
    }

    [Fact]
    public void AmsgradKeepsItsLargestMoments()
    {
        using var run = new Run();
        using var trained = new AdamW(run.Model.parameters(), amsgrad: true);
        using (NewDisposeScope())
        {
            run.Model.Loss(zeros([1, 4], dtype: ScalarType.Int64), ones([1, 4], dtype: ScalarType.Int64)).backward();
            trained.step();
        }

        TrainingCheckpoint.Save(Target, run.Model, Config, trained, 1);
        using var loaded = new AdamW(run.Model.parameters(), amsgrad: true);
        TrainingCheckpoint.Open(Target).LoadOptimizer(loaded, run.Model);
        var (want, got) = (Largest(trained), Largest(loaded));
        Assert.Equal(want, got);
        Assert.Contains(want, value => value > 0);

        static float[] Largest(AdamW optimizer) =>
            [.. optimizer.state_dict().State.Cast<AdamW.State>().SelectMany(state => state.max_exp_avg_sq.data<float>().ToArray())];
    }

    [Fact]
    public void TheModelIsRebuiltFromTheFolderAlone()
    {
        using var trained = new Run(steps: 3);
        trained.Save(Target, 3, validationLoss: 2.5);
        var checkpoint = TrainingCheckpoint.Open(Target);
        Assert.Equal(Config, checkpoint.Config);
        Assert.Equal(2.5, checkpoint.ValidationLoss);
        using var model = checkpoint.LoadModel();
        AssertSameWeights(trained.Model, model);
    }

    [Theory]
    [InlineData(null)]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    [InlineData(1.0 / 3)]
    public void TheValidationLossMayBeAnyNumberOrNone(double? loss)
    {
        using var run = new Run();
        run.Save(Target, 0, loss);
        Assert.Equal(loss, TrainingCheckpoint.Open(Target).ValidationLoss);
    }

    [Theory]
    [InlineData(true, 0)]
    [InlineData(false, 1)]
    public void ATiedHeadIsStoredOnce(bool tied, int heads)
    {
        var config = Config with { Model = Config.Model! with { TieEmbeddings = tied } };
        using var run = new Run(config: config);
        run.Save(Target, 0);
        using var file = SafeTensorsFile.Open(Path.Combine(Target, "model.safetensors"));
        Assert.Equal(heads, file.Names.Count(name => name.StartsWith("lm_head", StringComparison.Ordinal)));
        Assert.Equal(run.Model.CountParameters() * sizeof(float), file.Names.Sum(name => file.Entry(name).ByteSize));
        Assert.Equal("pt", file.Metadata["format"]);
        using var model = TrainingCheckpoint.Open(Target).LoadModel();
        AssertSameWeights(run.Model, model);
    }

    [Fact]
    public void TheFilesCanBeReadElsewhere()
    {
        using var run = new Run(steps: 1);
        run.Save(Target, 1);
        Assert.Equal(
            ["config.toml", "model.safetensors", "optimizer.safetensors", "training.json"],
            Directory.GetFiles(Target).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.Equal(Config, HybridConfig.Load(Path.Combine(Target, "config.toml")));

        using var scope = NewDisposeScope();
        using var optimizer = SafeTensorsFile.Open(Path.Combine(Target, "optimizer.safetensors"));
        Assert.Equal(1, optimizer.Read("embedding.weight.step").ToInt64());
        Assert.Equal([23, 12], optimizer.Entry("embedding.weight.exp_avg").Shape);
        Assert.Equal([23, 12], optimizer.Entry("embedding.weight.exp_avg_sq").Shape);
        var training = JsonNode.Parse(File.ReadAllText(Path.Combine(Target, "training.json")))!;
        Assert.Equal((1, 1), ((int)training["version"]!, (int)training["step"]!));
        Assert.Equal(Config.Training!.WeightDecay, (double)training["optimizer_groups"]![0]!["weight_decay"]!);
    }

    [Fact]
    public void NoTensorStaysBehind()
    {
        using var run = new Run(steps: 2);
        run.Save(Target, 2);
        Reload();
        var before = LiveTensors.Before();
        for (var i = 0; i < 5; i++)
        {
            run.Save(Target, 2);
            Reload();
        }

        Assert.Equal(before, Tensor.TotalCount);

        void Reload()
        {
            var checkpoint = TrainingCheckpoint.Open(Target);
            checkpoint.LoadInto(run.Model);
            checkpoint.LoadOptimizer(run.Trainer.Optimizer, run.Model);
        }
    }

    [Fact]
    public void AConfigurationOfAnotherModelIsRefused()
    {
        using var run = new Run();
        var other = Config with { Model = Config.Model! with { HiddenSize = 24 } };
        var error = Assert.Throws<ArgumentException>(() => TrainingCheckpoint.Save(Target, run.Model, other, run.Trainer.Optimizer, 0));
        Assert.Contains("must describe the model", error.Message, StringComparison.Ordinal);
        var none = Config with { Model = null };
        Assert.Throws<ArgumentException>(() => TrainingCheckpoint.Save(Target, run.Model, none, run.Trainer.Optimizer, 0));
        Assert.Empty(folder.Names());
    }

    [Fact]
    public void AnOptimizerOfAnotherModelIsRefused()
    {
        using var run = new Run();
        using var other = new Run();
        var error = Assert.Throws<ArgumentException>(
            () => TrainingCheckpoint.Save(Target, run.Model, Config, other.Trainer.Optimizer, 0));
        Assert.Contains("parameters that the model has now", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => TrainingCheckpoint.Save(Target, run.Model, Config, run.Trainer.Optimizer, -1));
        Assert.Empty(folder.Names());
    }

    public void Dispose() => folder.Dispose();

    private static void AssertSameWeights(CausalLanguageModel expected, CausalLanguageModel actual)
    {
        var (want, got) = (expected.state_dict(), actual.state_dict());
        Assert.Equal(want.Keys, got.Keys);
        Assert.All(want, entry => Assert.Equal(entry.Value.data<float>().ToArray(), got[entry.Key].data<float>().ToArray()));
    }

    /// <summary>A model in training on a fixed text.</summary>
    private sealed class Run : IDisposable
    {
        private readonly HybridConfig config;

        public Run(long seed = 1, int steps = 0, HybridConfig? config = null)
        {
            this.config = config ?? Config;
            manual_seed(seed);
            Model = new CausalLanguageModel(this.config.Model!);
            int[] text = [.. Enumerable.Range(0, 400).Select(i => i * i % 23)];
            Trainer = new LanguageModelTrainer(Model, new TokenCorpus(text, 0.2), this.config.Training!);
            for (var step = 0; step < steps; step++)
            {
                Trainer.TrainStep(step);
            }
        }

        public CausalLanguageModel Model { get; }

        public LanguageModelTrainer Trainer { get; }

        public void Save(string target, long step, double? validationLoss = null) =>
            TrainingCheckpoint.Save(target, Model, config, Trainer.Optimizer, step, validationLoss);

        public void Dispose()
        {
            Trainer.Dispose();
            Model.Dispose();
        }
    }
}
