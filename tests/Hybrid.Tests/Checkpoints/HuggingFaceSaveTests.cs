using System.Text.Json.Nodes;
using Hybrid.Attention;
using Hybrid.Checkpoints;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Tests.Infrastructure;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Checkpoints;

/// <summary>What SavePretrained writes: the same model again, in the same bytes, in as many files as asked for.</summary>
public class HuggingFaceSaveTests
{
    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void SavedModelsHoldTheTensorsOfTheirFilesAndSaveToTheSameBytesAgain(string name)
    {
        using var golden = new HuggingFaceModel(name);
        using var folder = new TemporaryFolder();
        using (var model = CausalLanguageModel.FromPretrained(golden.Folder))
        {
            model.SavePretrained(folder.File("first"));
        }

        using (var model = CausalLanguageModel.FromPretrained(folder.File("first")))
        {
            model.SavePretrained(folder.File("second"));
        }

        foreach (var file in Directory.GetFiles(folder.File("first")))
        {
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(Path.Combine(folder.File("second"), Path.GetFileName(file))));
        }

        var saved = (JsonObject)JsonNode.Parse(File.ReadAllText(Path.Combine(folder.File("first"), "config.json")))!;
        Assert.Equal([], golden.Config.Where(field => !JsonNode.DeepEquals(field.Value, saved[field.Key])).Select(field => field.Key));
        RequireSameTensors(golden.Folder, folder.File("first"));
    }

    [Fact]
    public void LargeModelsAreSplitIntoNumberedFilesWithAnIndex()
    {
        using var golden = HuggingFaceModel.Own("jamba");
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = golden.Load();
        const long limit = 100_000;
        model.SavePretrained(folder.File("split"), limit);

        var files = Directory.GetFiles(folder.File("split"), "model-*-of-*.safetensors").Order().ToArray();
        var index = JsonNode.Parse(File.ReadAllText(Path.Combine(folder.File("split"), "model.safetensors.index.json")))!;
        Assert.True(files.Length > 4, $"{files.Length} files");
        Assert.Equal($"model-00001-of-{files.Length:D5}.safetensors", Path.GetFileName(files[0]));
        Assert.All(files, file => Assert.True(DataSize(file) <= limit));
        Assert.Equal(files.Sum(DataSize), (long)index["metadata"]!["total_size"]!);

        using var again = CausalLanguageModel.FromPretrained(folder.File("split"));
        TensorAssert.Identical(model.call(golden.Ids), again.call(golden.Ids), "logits");

        // A later save in one file leaves none of the numbered ones.
        model.SavePretrained(folder.File("split"));
        Assert.Equal(["config.json", "generation_config.json", "model.safetensors"], Directory.GetFiles(folder.File("split")).Select(Path.GetFileName).Order());
    }

    [Fact]
    public void FoldersThatHoldOtherFilesAreNotTouched()
    {
        using var golden = HuggingFaceModel.Own("mamba");
        using var folder = new TemporaryFolder();
        using var model = golden.Load();
        Directory.CreateDirectory(folder.File("own"));
        File.WriteAllText(Path.Combine(folder.File("own"), "thesis.txt"), "years of work");
        var error = Assert.Throws<IOException>(() => model.SavePretrained(folder.File("own")));
        Assert.Contains("found 'thesis.txt'", error.Message, StringComparison.Ordinal);
        Assert.Equal(["own"], folder.Names());
    }

    [Fact]
    public void HalfPrecisionWeightsStayAsTheyAreAndRunInTheirOwnType()
    {
        using var golden = HuggingFaceModel.Own("mamba_bf16");
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = CausalLanguageModel.FromPretrained(golden.Folder);
        Assert.Equal(ScalarType.BFloat16, model.Type);

        // Both sides round every step to 8 bits, in another order; the logits are up to 10.
        var logits = model.call(golden.Ids).to_type(ScalarType.Float32);
        Assert.True((logits - golden.Get("logits")).abs().max().ToSingle() < 0.15);

        using var wide = CausalLanguageModel.FromPretrained(golden.Folder, dtype: "float32");
        wide.SavePretrained(folder.File("wide"));
        Assert.Equal("float32", (string?)JsonNode.Parse(File.ReadAllText(Path.Combine(folder.File("wide"), "config.json")))!["dtype"]);
    }

    [Theory]
    [MemberData(nameof(HuggingFaceModel.All), MemberType = typeof(HuggingFaceModel))]
    public void EveryArchitectureRunsInHalfPrecision(string name)
    {
        using var golden = new HuggingFaceModel(name);
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var model = CausalLanguageModel.FromPretrained(golden.Folder, dtype: "bfloat16");
        var logits = model.call(golden.Ids).to_type(ScalarType.Float32);
        var expected = golden.Logits();

        // Rounding to 8 bits moves a logit by hundredths of the largest; experts may change for single tokens, so the mean counts.
        Assert.True((logits - expected).abs().mean().ToDouble() < 0.05 * expected.abs().max().ToDouble());
    }

    public static TheoryData<string, LanguageModelOptions> Exported() => new()
    {
        { "mamba", Small with { Layers = ["mamba"], Mixers = Options(("mamba", new MambaOptions { DState = 5, UseBias = true })) } },
        { "mamba2", Small with { Layers = ["mamba2"], Mixers = Options(("mamba2", new Mamba2Options { DState = 6, HeadDim = 8, NGroups = 2, DtLimitMin = 0.01 })) } },
        { "jamba", Jamba },
        { "jamba", Jamba with { MixtureOfExperts = null, TieEmbeddings = false, AttentionEvery = null, AttentionLayers = [1] } },
        {
            "bamba", Small with
            {
                NumLayers = 4, Backbone = "mamba2", AttentionLayers = [0, 3], FeedForward = new FeedForwardOptions(),
                Mixers = Options(("mamba2", new Mamba2Options { DState = 6, HeadDim = 8 }), ("attention", new AttentionOptions { NumHeads = 4, PartialRotaryFactor = 0.5 })),
            }
        },
    };

    [Theory]
    [MemberData(nameof(Exported))]
    public void ModelsMadeHereAreWrittenAsTheTypeTheirLayersAreOf(string type, LanguageModelOptions options)
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(3);
        using var model = new CausalLanguageModel(options);
        model.eval();
        model.SavePretrained(folder.File("out"));
        Assert.Equal(type, (string?)JsonNode.Parse(File.ReadAllText(Path.Combine(folder.File("out"), "config.json")))!["model_type"]);

        using var again = CausalLanguageModel.FromPretrained(folder.File("out"));
        var ids = randint(0, options.VocabSize, [2, 11], dtype: ScalarType.Int64);
        TensorAssert.Close(model.call(ids), again.call(ids), 1e-6, "logits");
    }

    [Theory]
    [InlineData("gru", "mamba: ")]
    [InlineData("attention", "bamba: attention.qk_layernorm would have to be False, is True")]
    public void ModelsThatNoTypeHasAreRefusedWithTheReasons(string mixer, string reason)
    {
        using var folder = new TemporaryFolder();
        using var model = new CausalLanguageModel(Small with
        {
            Layers = [mixer],
            FeedForward = new FeedForwardOptions(),
            Mixers = mixer == "attention" ? Options(("attention", new AttentionOptions { QkLayernorm = true })) : Options(),
        });
        var error = Assert.Throws<NotSupportedException>(() => model.SavePretrained(folder.File("out")));
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
        Assert.Empty(folder.Names());
    }

    [Fact]
    public void ChangedNumbersAreRefusedWhereTheTypeHasNoFieldForThem()
    {
        using var folder = new TemporaryFolder();
        using var model = new CausalLanguageModel(Small with { Layers = ["mamba"], LogitsSoftCap = 5 });
        var error = Assert.Throws<NotSupportedException>(() => model.SavePretrained(folder.File("out")));
        Assert.Contains("mamba: logits_soft_cap would have to be absent, is 5", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LoadedModelsTrainAndGoOnFromWhatWasSaved()
    {
        using var golden = HuggingFaceModel.Own("mamba");
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using var model = golden.Load();
        model.train();
        using var optimizer = optim.AdamW(model.parameters(), lr: 1e-2);
        var (ids, targets) = (golden.Ids.narrow(1, 0, 36), golden.Ids.narrow(1, 1, 36));
        var before = model.Loss(ids, targets).ToDouble();
        for (var step = 0; step < 5; step++)
        {
            optimizer.zero_grad();
            model.Loss(ids, targets).backward();
            optimizer.step();
        }

        var after = model.Loss(ids, targets).ToDouble();
        Assert.True(after < before - 0.5, $"loss {before} became {after}");
        model.SavePretrained(folder.File("trained"));
        using var again = CausalLanguageModel.FromPretrained(folder.File("trained"));
        Assert.Equal(after, again.Loss(ids, targets).ToDouble(), 1e-6);
    }

    private static LanguageModelOptions Small => new() { VocabSize = 50, HiddenSize = 32, NumLayers = 3, MaxSeqLen = 64 };

    private static LanguageModelOptions Jamba => Small with
    {
        NumLayers = 6,
        AttentionEvery = 3,
        FeedForward = new FeedForwardOptions { IntermediateSize = 20 },
        MixtureOfExperts = new MixtureOfExpertsOptions { NumExperts = 3, IntermediateSize = 20, ExpertEvery = 2, ExpertOffset = 1 },
        Mixers = Options(
            ("mamba", new MambaOptions { DState = 5, UseInnerNorms = true, InnerNormEps = 1e-5 }),
            ("attention", new AttentionOptions { NumHeads = 4, NumKeyValueHeads = 2, UseRope = false })),
    };

    private static Dictionary<string, object> Options(params (string Name, object Options)[] mixers) =>
        mixers.ToDictionary(mixer => mixer.Name, mixer => mixer.Options);

    private static long DataSize(string path)
    {
        using var file = SafeTensorsFile.Open(path);
        return file.Names.Sum(name => file.Entry(name).ByteSize);
    }

    private static void RequireSameTensors(string original, string saved)
    {
        using var scope = NewDisposeScope();
        using var file = SafeTensorsFile.Open(Path.Combine(saved, "model.safetensors"));
        Assert.Equal("pt", file.Metadata["format"]);
        var seen = 0;
        foreach (var path in Directory.GetFiles(original, "model*.safetensors"))
        {
            using var source = SafeTensorsFile.Open(path);
            foreach (var name in source.Names)
            {
                var own = file.Contains(name) ? name : name.Replace("backbone.embedding.", "backbone.embeddings.", StringComparison.Ordinal);
                Assert.Equal(source.Entry(name).Type, file.Entry(own).Type);
                TensorAssert.Identical(source.Read(name), file.Read(own), name);
                seen++;
            }
        }

        Assert.Equal(seen, file.Names.Count);
    }
}
