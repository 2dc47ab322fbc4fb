using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
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
        var pattern = config.Model!.ResolvePattern().Mixers;
        Assert.Equal([7, 15], Enumerable.Range(0, pattern.Count).Where(i => pattern[i] == "attention"));
        Assert.Equal(14, pattern.Count(name => name == "mamba"));
        Assert.True(Assert.IsType<MambaOptions>(config.Model.Mixers["mamba"]).UseInnerNorms);
        var attention = Assert.IsType<AttentionOptions>(config.Model.Mixers["attention"]);
        Assert.False(attention.UseRope);
        Assert.True(attention.NumKeyValueHeads < attention.NumHeads);
        Assert.NotNull(config.Training);

        // The whole has 156 million parameters; a narrow copy has all of its parts.
        var feedForward = config.Model.FeedForward! with { IntermediateSize = 16 };
        RunModel(config.Model with { VocabSize = 50, HiddenSize = 24, FeedForward = feedForward }).Dispose();
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
