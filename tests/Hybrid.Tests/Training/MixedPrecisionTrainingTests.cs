using System.Text.Json.Nodes;
using Hybrid.Checkpoints;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Tests.Checkpoints;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Modeling;
using Hybrid.Training;
using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Training;

public sealed class MixedPrecisionTrainingTests : IDisposable
{
    private static readonly TrainingOptions Options = new()
    {
        Steps = 60, BatchSize = 6, SequenceLength = 20, LearningRate = 1e-2, MinLearningRate = 1e-3, WarmupSteps = 5, Seed = 5,
    };

    private readonly TemporaryFolder folder = new();

    [Fact]
    public void ARunReachesTheLossOfFloat32()
    {
        var wide = Train(ScalarType.Float32);
        var mixed = Train(ScalarType.BFloat16);
        Assert.InRange(wide, 0, 1.5);
        Assert.Equal(wide, mixed, 0.02 * wide);

        static double Train(ScalarType precision)
        {
            using var model = Model(precision);
            using var trainer = new LanguageModelTrainer(model, Text(), Options);
            for (var step = 0; step < Options.Steps; step++)
            {
                trainer.TrainStep(step);
            }

            return trainer.Evaluate();
        }
    }

    [Fact]
    public void UpdatesTooSmallForBfloat16AddUp()
    {
        using var layer = nn.Linear(1, 1, hasBias: false).ToMixedPrecision();
        using var guard = no_grad();
        using var scope = NewDisposeScope();
        layer.weight.fill_(1);
        using var masters = new MasterWeights(layer);
        var master = masters.Of(layer.weight);
        for (var step = 0; step < 100; step++)
        {
            layer.weight.grad = full([1, 1], 2, dtype: ScalarType.BFloat16);
            masters.TakeGradients(scale: 4);
            master.sub_(master.grad! * 1e-3);
            masters.Publish();
        }

        Assert.Equal(0.95, master.item<float>(), 1e-5);
        Assert.Equal(0.95, layer.weight.to_type(ScalarType.Float32).item<float>(), 1.0 / 256);
        Assert.Null(layer.weight.grad);
    }

    [Fact]
    public void AFloat32ParameterIsItsOwnMaster()
    {
        using var model = Model(ScalarType.BFloat16);
        using var masters = new MasterWeights(model);
        foreach (var (name, parameter) in model.named_parameters())
        {
            Assert.Equal((name, parameter.dtype == ScalarType.Float32), (name, ReferenceEquals(parameter, masters.Of(parameter))));
        }

        Assert.Equal(model.parameters().Count(parameter => parameter.dtype == ScalarType.BFloat16), masters.Count);
    }

    [Fact]
    public void AResumedRunRepeatsTheLossesAndWeightsOfAnUninterruptedOne()
    {
        var config = new HybridConfig { Model = ModelOptions(ScalarType.BFloat16), Training = Options };
        using var model = Model(ScalarType.BFloat16);
        using var whole = new LanguageModelTrainer(model, Text(), Options);
        var expected = Enumerable.Range(0, 5).Select(whole.TrainStep).ToArray();
        TrainingCheckpoint.Save(folder.File("run"), model, config, whole.Optimizer, 5, masters: whole.Masters);
        expected = [.. Enumerable.Range(5, 5).Select(whole.TrainStep)];

        var checkpoint = TrainingCheckpoint.Open(folder.File("run"));
        using var loaded = checkpoint.LoadModel();
        using var second = new LanguageModelTrainer(loaded, Text(), Options);
        checkpoint.LoadOptimizer(second.Optimizer, loaded, second.Masters);
        Assert.Equal(expected, Enumerable.Range(5, 5).Select(second.TrainStep));
        foreach (var (name, parameter) in model.named_parameters())
        {
            TensorAssert.Identical(parameter, loaded.get_parameter(name)!, name);
        }
    }

    [Fact]
    public void ACheckpointWithoutItsMasterWeightsIsRefused()
    {
        var config = new HybridConfig { Model = ModelOptions(ScalarType.BFloat16), Training = Options };
        using var model = Model(ScalarType.BFloat16);
        using var trainer = new LanguageModelTrainer(model, Text(), Options);
        var error = Assert.Throws<ArgumentException>(() => TrainingCheckpoint.Save(folder.File("run"), model, config, trainer.Optimizer, 0));
        Assert.Contains("master weights", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TheLossScaleIsSavedAndRestored()
    {
        var config = new HybridConfig { Model = ModelOptions(ScalarType.Float16), Training = Options };
        using var model = Model(ScalarType.Float16);
        using var trainer = new LanguageModelTrainer(model, Text(), Options);
        var scaler = trainer.Scaler!;
        scaler.Update(finite: false);
        scaler.Update(finite: true);
        var target = folder.File("run");
        TrainingCheckpoint.Save(target, model, config, trainer.Optimizer, 2, masters: trainer.Masters, scaler: scaler);

        var restored = new LossScaler();
        TrainingCheckpoint.Open(target).LoadOptimizer(trainer.Optimizer, model, trainer.Masters, restored);
        Assert.Equal((32768.0, 1, 1L), (restored.Scale, restored.GrowthSteps, restored.SkippedSteps));
        var missing = Assert.Throws<InvalidDataException>(() => TrainingCheckpoint.Open(target).LoadOptimizer(trainer.Optimizer, model, trainer.Masters));
        Assert.Contains("expected no loss scale", missing.Message, StringComparison.Ordinal);

        var file = Path.Combine(target, "training.json");
        var json = JsonNode.Parse(File.ReadAllText(file))!;
        json["loss_scaler"]!["scale"] = -1;
        File.WriteAllText(file, json.ToJsonString());
        var broken = Assert.Throws<InvalidDataException>(
            () => TrainingCheckpoint.Open(target).LoadOptimizer(trainer.Optimizer, model, trainer.Masters, restored));
        Assert.Contains("positive loss scale", broken.Message, StringComparison.Ordinal);
        Assert.Equal(32768.0, restored.Scale);
    }

    [Fact]
    public void OptionsOfALossScalerNeedAFloat16Model()
    {
        var toml = "[model]\nvocab_size = 9\n[training.loss_scaler]\ngrowth_interval = 100";
        var config = HybridConfig.Parse(toml);
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
        var options = config.Training!;
        Assert.Equal(100, options.LossScaler!.GrowthInterval);
        using var model = Model(ScalarType.BFloat16);
        var error = Assert.Throws<ArgumentException>(() => new LanguageModelTrainer(model, Text(), options));
        Assert.Contains("is for a model in Float16", error.Message, StringComparison.Ordinal);
    }

    public void Dispose() => folder.Dispose();

    private static LanguageModelOptions ModelOptions(ScalarType precision) => SmallModel.Options(vocabulary: 256) with { Precision = precision };

    private static CausalLanguageModel Model(ScalarType precision) => SmallModel.Create(ModelOptions(precision), embeddingScale: 1);

    private static TokenCorpus Text() =>
        new([.. Enumerable.Range(0, 2000).Select(i => (int)"the quick brown fox jumps over the lazy dog. "[i % 45])], 0.1);
}
