using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Training;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Configuration;

/// <summary>The files of configs/, which stand beside the tests: each loads, says what it is meant to say, and builds.</summary>
public class ConfigFilesTests
{
    private static readonly string Folder = Path.Combine(AppContext.BaseDirectory, "configs");

    private static readonly Dictionary<string, Action<HybridConfig>> Checks = new()
    {
        ["tiny.toml"] = CheckTiny,
        ["jamba-style.toml"] = CheckJambaStyle,
        ["mamba_hybrid.toml"] = CheckMambaHybrid,
        ["mamba2-hybrid.toml"] = config => CheckFamily(config, "mamba2 mamba2 mamba2 attention"),
        ["transmamba.toml"] = config => CheckFamily(config, "trans_point trans_point trans_point trans_point"),
        ["gated-delta-hybrid.toml"] = config => CheckFamily(config, "gated_delta_net gated_delta_net gated_delta_net attention"),
        ["griffin-style.toml"] = config => CheckFamily(config, "griffin_lru griffin_lru attention"),
        ["rwkv.toml"] = config => CheckFamily(config, "rwkv rwkv rwkv"),
        ["gru-attention.toml"] = config => CheckFamily(config, "gru attention gru attention"),
        ["recommended.toml"] = config => CheckFamily(config, "mamba mamba attention mamba mamba attention"),
    };

    public static TheoryData<string> Files => [.. Directory.EnumerateFiles(Folder).Select(path => Path.GetFileName(path))];

    [Theory]
    [MemberData(nameof(Files))]
    public void EveryFile_LoadsAndBuilds(string file)
    {
        Assert.True(Checks.ContainsKey(file), $"configs/{file} has no check in {nameof(ConfigFilesTests)}");
        var config = HybridConfig.Load(Path.Combine(Folder, file));
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
        Checks[file](config);
    }

    [Fact]
    public void EveryCheck_HasItsFile() =>
        Assert.Equal(Checks.Keys.Order(), Directory.EnumerateFiles(Folder).Select(Path.GetFileName).Order());

    private static void CheckTiny(HybridConfig config)
    {
        Assert.Equal(["mamba", "mamba", "hybrid_attention", "mamba"], config.Model!.ResolvePattern().Mixers);
        Assert.Equal(ByteTokenizer.Vocabulary, config.Model.VocabSize);
        Assert.NotNull(config.Training);
        using var model = RunModel(config.Model);
        Assert.InRange(model.CountParameters(), 1, 800_000);
    }

    private static void CheckJambaStyle(HybridConfig config)
    {
        var model = config.Model!;
        Assert.True(Assert.IsType<MambaOptions>(model.Mixers["mamba"]).UseInnerNorms);
        var attention = Assert.IsType<AttentionOptions>(model.Mixers["attention"]);
        Assert.False(attention.UseRope);
        Assert.True(attention.NumKeyValueHeads < attention.NumHeads);
        Assert.Equal(PositionEncodingKind.None, model.PositionEncoding);
        Assert.Equal([1, 3, 5, 7], Enumerable.Range(0, model.NumLayers).Where(model.MixtureOfExperts!.IsExpertLayer));
        CheckFamily(config, "mamba mamba mamba mamba mamba mamba mamba attention");
    }

    private static void CheckMambaHybrid(HybridConfig config)
    {
        var (mamba, router) = ((MambaOptions)config.Modules!.Active[0].Options, (HybridAttentionOptions)config.Modules.Active[1].Options);
        Assert.Equal(["mamba", "hybrid_attention"], config.Modules.Active.Select(module => module.Name));
        Assert.Equal((768, 64, 32, Activation.Silu), (config.Modules.HiddenSize, mamba.DState, mamba.DtRank, mamba.Activation));
        Assert.Equal((512, 2048, 3072), (router.MambaThreshold, router.TransformerMaxLength, router.IntermediateSize));
        Assert.Equal((12, 64), (router.AttentionConfig.NumHeads, router.MambaConfig.DState));

        using var scope = NewDisposeScope();
        using var stack = new ModuleStack(config.Modules);
        stack.eval();
        Assert.Equal([1L, 3L, 768L], stack.forward(randn(1, 3, 768)).shape);
    }

    /// <summary>The layers are these; the model trains twenty steps with falling loss, and generates.</summary>
    private static void CheckFamily(HybridConfig config, string layers)
    {
        Assert.Equal(layers.Split(' '), config.Model!.ResolvePattern().Mixers);
        var text = string.Concat(Enumerable.Repeat("A stitch in time saves nine. ", 60));
        var training = config.Training! with { Steps = 20, BatchSize = 4, SequenceLength = 32, WarmupSteps = 2 };
        manual_seed(training.Seed);
        using var model = new CausalLanguageModel(config.Model!);
        using var trainer = new LanguageModelTrainer(model, new TokenCorpus(new ByteTokenizer().Encode(text), 0.2), training);
        var losses = Enumerable.Range(0, training.Steps).Select(trainer.TrainStep).ToArray();
        Assert.True(losses[15..].Average() < 0.7 * losses[..5].Average(), $"the loss went {string.Join(", ", losses.Select(loss => $"{loss:f2}"))}");
        Assert.Equal(12, model.Generate("A stitch", new GenerationOptions { MaxNewTokens = 12, Temperature = 0 }).Sum(piece => piece.Length));
    }

    private static CausalLanguageModel RunModel(LanguageModelOptions options)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var model = new CausalLanguageModel(options);
        model.eval();
        Assert.Equal([2L, 5L, options.VocabSize], model.forward(randint(0, options.VocabSize, [2, 5], dtype: ScalarType.Int64)).shape);
        return model;
    }
}
