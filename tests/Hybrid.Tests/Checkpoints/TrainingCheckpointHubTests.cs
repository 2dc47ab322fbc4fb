using Hybrid.Checkpoints;
using Hybrid.Configuration;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Modeling;
using Hybrid.Tests.Tokenizers;
using Hybrid.Tokenizers;
using Hybrid.Training;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>Checkpoints of models that came from a hub, and of models with a tokenizer: what is beside the weights comes back too.</summary>
public sealed class TrainingCheckpointHubTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    private string Target => folder.File("run");

    /// <summary>Zamba2 shares weights between layers, which no configuration states.</summary>
    public static TheoryData<string> Models() =>
        HuggingFaceModel.Of(name => !name.StartsWith("zamba2", StringComparison.Ordinal) && !name.EndsWith("_bf16", StringComparison.Ordinal));

    [Theory]
    [MemberData(nameof(Models))]
    public void AResumedModelIsSavedInTheFormThatItCameIn(string name)
    {
        using var golden = new HuggingFaceModel(name);
        using var loaded = golden.Load();
        SaveCheckpoint(loaded);
        using var resumed = TrainingCheckpoint.Open(Target).LoadModel();
        resumed.eval();

        loaded.SavePretrained(folder.File("direct"));
        resumed.SavePretrained(folder.File("resumed"));
        Assert.Equal(Contents(folder.File("direct")), Contents(folder.File("resumed")));
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        TensorAssert.Identical(loaded.call(golden.Ids), resumed.call(golden.Ids), "logits");
    }

    [Fact]
    public void TokenizerFilesOfTheHubComeBackByteForByte()
    {
        using var golden = HuggingFaceModel.Own("mamba");
        CopyWithTokenizer(golden, folder.File("hub"), "llama3");
        using var loaded = CausalLanguageModel.FromPretrained(folder.File("hub"));
        SaveCheckpoint(loaded);

        using var fresh = new CausalLanguageModel(loaded.Options);
        TrainingCheckpoint.Open(Target).LoadInto(fresh);
        Assert.Equal(loaded.Tokenizer!.Encode("the state"), fresh.Tokenizer!.Encode("the state"));
        fresh.SavePretrained(folder.File("again"));
        loaded.SavePretrained(folder.File("direct"));
        Assert.Equal(Contents(folder.File("direct")), Contents(folder.File("again")));

        var own = TokenizerSamples.Load("gpt2");
        fresh.Tokenizer = own;
        TrainingCheckpoint.Open(Target).LoadInto(fresh);
        Assert.Same(own, fresh.Tokenizer);
    }

    [Fact]
    public void ATokenizerThatWasSetComesBackAndBytesNeedNoFile()
    {
        using var model = TextModel.Create(layers: "mamba");
        SaveCheckpoint(model);
        Assert.False(Directory.Exists(Path.Combine(Target, "hub")));
        using (var bytes = TrainingCheckpoint.Open(Target).LoadModel())
        {
            Assert.IsType<ByteTokenizer>(bytes.Tokenizer);
        }

        model.Tokenizer = TokenizerSamples.Load("gpt2");
        SaveCheckpoint(model);
        using var loaded = TrainingCheckpoint.Open(Target).LoadModel();
        Assert.Equal(model.Tokenizer.Encode("the state"), Assert.IsType<BpeTokenizer>(loaded.Tokenizer).Encode("the state"));
    }

    [Fact]
    public void FilesOfSomeoneElseInTheHubFolderAreNotDeleted()
    {
        using var model = TextModel.Create(layers: "mamba");
        SaveCheckpoint(model);
        Directory.CreateDirectory(Path.Combine(Target, "hub"));
        var foreign = Path.Combine(Target, "hub", "thesis.txt");
        File.WriteAllText(foreign, "mine");
        var error = Assert.Throws<IOException>(() => SaveCheckpoint(model));
        Assert.Contains("found 'hub/thesis.txt'", error.Message, StringComparison.Ordinal);
        Assert.Equal("mine", File.ReadAllText(foreign));
    }

    public void Dispose() => folder.Dispose();

    private void SaveCheckpoint(CausalLanguageModel model)
    {
        var config = new HybridConfig { Model = model.Options, Training = new TrainingOptions() };
        using var optimizer = LanguageModelTrainer.CreateOptimizer(model, config.Training);
        TrainingCheckpoint.Save(Target, model, config, optimizer, 1);
    }

    private static void CopyWithTokenizer(HuggingFaceModel golden, string target, string sample)
    {
        Directory.CreateDirectory(target);
        foreach (var file in new[] { "config.json", "generation_config.json", "model.safetensors" })
        {
            File.Copy(Path.Combine(golden.Folder, file), Path.Combine(target, file));
        }

        File.Copy(TokenizerSamples.PathOf(sample), Path.Combine(target, "tokenizer.json"));
        File.WriteAllText(Path.Combine(target, "tokenizer_config.json"), "{ }");
    }

    private static SortedDictionary<string, string> Contents(string folder) =>
        new(Directory.GetFiles(folder).ToDictionary(path => Path.GetFileName(path), path => Convert.ToHexString(File.ReadAllBytes(path))), StringComparer.Ordinal);
}
