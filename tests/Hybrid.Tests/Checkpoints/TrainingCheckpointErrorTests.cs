using Hybrid.Checkpoints;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Training;
using TorchSharp;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>A checkpoint that does not fit is refused before anything is changed.</summary>
public sealed class TrainingCheckpointErrorTests : IDisposable
{
    private static readonly HybridConfig Config = new()
    {
        Model = new LanguageModelOptions { VocabSize = 11, HiddenSize = 8, NumLayers = 1, Layers = ["mamba"] },
        Training = new TrainingOptions(),
    };

    private readonly TemporaryFolder folder = new();
    private readonly CausalLanguageModel model = new(Config.Model!);
    private readonly AdamW optimizer;

    public TrainingCheckpointErrorTests()
    {
        optimizer = LanguageModelTrainer.CreateOptimizer(model, Config.Training!);
        TrainingCheckpoint.Save(Target, model, Config, optimizer, 7);
    }

    [Fact]
    public void ModelsThatOptionsCannotStateAreRefused()
    {
        using var golden = HuggingFaceModel.Own("zamba2");
        using var shared = golden.Load();
        using var own = LanguageModelTrainer.CreateOptimizer(shared, Config.Training!);
        var error = Assert.Throws<ArgumentException>(
            () => TrainingCheckpoint.Save(folder.File("shared"), shared, Config with { Model = shared.Options }, own, 0));
        Assert.Contains("save it with SavePretrained", error.Message, StringComparison.Ordinal);
    }

    private string Target => folder.File("run");

    [Theory]
    [InlineData("model.safetensors")]
    [InlineData("config.toml")]
    [InlineData("optimizer.safetensors")]
    [InlineData("training.json")]
    public void AMissingFileIsNamed(string name)
    {
        File.Delete(Path.Combine(Target, name));
        var error = Assert.Throws<InvalidDataException>(() => TrainingCheckpoint.Open(Target));
        Assert.Contains($"there is no {name}", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AMissingFolderIsNamed()
    {
        var error = Assert.Throws<DirectoryNotFoundException>(() => TrainingCheckpoint.Open(folder.File("other")));
        Assert.Contains("other", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", "training.json")]
    [InlineData("[]", "expected \"version\": 1")]
    [InlineData("{\"version\": 2, \"step\": 7, \"news\": []}", "expected \"version\": 1")]
    [InlineData("{\"version\": \"1\", \"step\": 7}", "expected \"version\": 1")]
    [InlineData("{\"version\": 1, \"optimizer_groups\": []}", "step")]
    [InlineData("{\"version\": 1, \"step\": 7}", "optimizer_groups")]
    [InlineData("{\"version\": 1, \"step\": 7, \"optimizer_groups\": null}", "optimizer_groups")]
    [InlineData("{\"version\": 1, \"step\": \"seven\", \"optimizer_groups\": []}", "step")]
    [InlineData("{\"version\": 1, \"step\": -1, \"optimizer_groups\": []}", "found -1")]
    [InlineData("{\"version\": 1, \"step\": 7, \"optimizer_groups\": [], \"stepp\": 8}", "stepp")]
    public void ABrokenTrainingFileIsRefused(string text, string said)
    {
        var path = Path.Combine(Target, "training.json");
        File.WriteAllText(path, text);
        var error = Assert.Throws<InvalidDataException>(() => TrainingCheckpoint.Open(Target));
        Assert.StartsWith(path, error.Message, StringComparison.Ordinal);
        Assert.Contains(said, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AConfigurationWithoutAModelIsRefused()
    {
        File.WriteAllText(Path.Combine(Target, "config.toml"), "[modules]\nactive = []\n");
        Assert.ThrowsAny<Exception>(() => TrainingCheckpoint.Open(Target));
        File.WriteAllText(Path.Combine(Target, "config.toml"), "[model]\nhidden = 3\n");
        Assert.Throws<HybridConfigException>(() => TrainingCheckpoint.Open(Target));
    }

    [Fact]
    public void FilesOfDifferentStepsAreNotMixed()
    {
        var opened = TrainingCheckpoint.Open(Target);
        TrainingCheckpoint.Save(Target, model, Config, optimizer, 8);
        var error = Assert.Throws<InvalidDataException>(() => opened.LoadInto(model));
        Assert.Contains("expected step 7; found '8'", error.Message, StringComparison.Ordinal);
        Assert.Throws<InvalidDataException>(() => opened.LoadOptimizer(optimizer, model));
    }

    [Fact]
    public void AModelFileThatDoesNotFitIsRefusedBeforeAWeightIsChanged()
    {
        // All weights but one differ from the model's own; then one thing after the other is wrong with the file.
        AssertRefused(
            entries => entries.Where(entry => entry.Name != "embedding.weight"),
            "'embedding.weight': expected F32 [11, 8]; found no tensor of this name");
        AssertRefused(entries => entries.Append(("surplus", ones(2))), "'surplus': expected none of this name");
        AssertRefused(
            entries => entries.Select(entry => entry.Name == "embedding.weight" ? (entry.Name, ones(8, 11)) : entry),
            "'embedding.weight': expected F32 [11, 8]; found F32 [8, 11]");
        AssertRefused(
            entries => entries.Select(entry => entry.Name == "embedding.weight" ? (entry.Name, entry.Tensor.bfloat16()) : entry),
            "'embedding.weight': expected F32 [11, 8]; found BF16 [11, 8]");
        AssertRefused(entries => entries.Select(entry => ("x." + entry.Name, entry.Tensor)), "more.");

        void AssertRefused(Func<IEnumerable<(string Name, Tensor Tensor)>, IEnumerable<(string, Tensor)>> change, string said)
        {
            using var scope = NewDisposeScope();
            var other = model.state_dict().Select(entry => (Name: entry.Key, Tensor: entry.Value.detach() + 1));
            Rewrite("model.safetensors", change(other));
            var before = Weights();
            var error = Assert.Throws<InvalidDataException>(() => TrainingCheckpoint.Open(Target).LoadInto(model));
            Assert.Contains(said, error.Message, StringComparison.Ordinal);
            Assert.Equal(before, Weights());
        }
    }

    [Fact]
    public void AnOptimizerFileThatDoesNotFitIsRefusedBeforeAMomentIsChanged()
    {
        var path = Path.Combine(Target, "optimizer.safetensors");
        using var scope = NewDisposeScope();
        (string Name, Tensor Tensor)[] saved;
        using (var file = SafeTensorsFile.Open(path))
        {
            saved = [.. file.Names.Select(name => (name, file.Entry(name).Type == ScalarType.Int64 ? tensor(5L) : file.Read(name) + 1))];
        }

        AssertRefused(
            saved.Where(entry => entry.Name != "embedding.weight.exp_avg"),
            "'embedding.weight.exp_avg': expected F32 [11, 8]; found no tensor");
        AssertRefused(
            saved.Where(entry => entry.Name != "embedding.weight.step"), "'embedding.weight.step': expected I64 []; found no tensor");
        AssertRefused(
            saved.Append(("embedding.weight.max_exp_avg_sq", ones(11, 8))),
            "'embedding.weight.max_exp_avg_sq': expected none of this name");
        AssertRefused(
            saved.Select(entry => entry.Name == "embedding.weight.exp_avg_sq" ? (entry.Name, ones(88)) : entry),
            "'embedding.weight.exp_avg_sq': expected F32 [11, 8]; found F32 [88]");

        void AssertRefused(IEnumerable<(string Name, Tensor Tensor)> entries, string said)
        {
            Rewrite("optimizer.safetensors", entries);
            var error = Assert.Throws<InvalidDataException>(() => TrainingCheckpoint.Open(Target).LoadOptimizer(optimizer, model));
            Assert.Contains(said, error.Message, StringComparison.Ordinal);
            Assert.All(optimizer.state_dict().State.Cast<AdamW.State>(), state =>
            {
                Assert.Equal(0, state.step);
                Assert.Equal(0, state.exp_avg.abs().sum().ToSingle());
                Assert.Equal(0, state.exp_avg_sq.abs().sum().ToSingle());
            });
        }
    }

    [Fact]
    public void OtherGroupsAreRefused()
    {
        var checkpoint = TrainingCheckpoint.Open(Target);
        using var one = new AdamW(model.parameters());
        var error = Assert.Throws<InvalidDataException>(() => checkpoint.LoadOptimizer(one, model));
        Assert.Contains("expected 1 parameter groups, as the optimizer has; found 2", error.Message, StringComparison.Ordinal);

        var all = model.parameters().ToArray();
        using var swapped = new AdamW([new AdamW.ParamGroup(all[1..]), new AdamW.ParamGroup(all[..1])]);
        error = Assert.Throws<InvalidDataException>(() => checkpoint.LoadOptimizer(swapped, model));
        Assert.Matches("parameter group 0: expected '.+', as in the optimizer; found no such name", error.Message);

        var groups = optimizer.ParamGroups.Cast<AdamW.ParamGroup>();
        var fewer = groups.Select((group, i) => new AdamW.ParamGroup(i == 0 ? group.Parameters.Skip(1) : group.Parameters));
        using var partial = new AdamW(fewer);
        error = Assert.Throws<InvalidDataException>(() => checkpoint.LoadOptimizer(partial, model));
        Assert.Matches("parameter group 0: expected the names of the optimizer; found '.+' too", error.Message);

        using var amsgrad = new AdamW(groups.Select(group => new AdamW.ParamGroup(group.Parameters, amsgrad: true)));
        error = Assert.Throws<InvalidDataException>(() => checkpoint.LoadOptimizer(amsgrad, model));
        Assert.Contains("expected amsgrad True, as in the optimizer; found False", error.Message, StringComparison.Ordinal);
    }

    public void Dispose()
    {
        optimizer.Dispose();
        model.Dispose();
        folder.Dispose();
    }

    private void Rewrite(string name, IEnumerable<(string, Tensor)> tensors) =>
        SafeTensorsFile.Write(Path.Combine(Target, name), tensors, new Dictionary<string, string> { ["step"] = "7" });

    private float[] Weights() => [.. model.state_dict().Values.SelectMany(weight => weight.data<float>().ToArray())];
}
