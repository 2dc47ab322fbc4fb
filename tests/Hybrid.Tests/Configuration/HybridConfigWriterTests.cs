using System.Globalization;
using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Training;
using Xunit;

namespace Hybrid.Tests.Configuration;

public class HybridConfigWriterTests
{
    private static readonly HybridConfig Full = new()
    {
        Model = new LanguageModelOptions
        {
            VocabSize = 300, HiddenSize = 48, NumLayers = 3, MaxSeqLen = 99, TieEmbeddings = false, NormEps = 1e-12, DropoutRate = 0.1,
            PreNorm = false,
            Layers = ["mamba", "attention", "hybrid_attention"],
            FeedForward = new FeedForwardOptions { Kind = FeedForwardKind.Gelu, IntermediateSize = 33 },
            Mixers = new Dictionary<string, object>
            {
                ["mamba"] = new MambaOptions
                {
                    DState = 3, DtRank = 2, DtLimitMin = 1e-300, DtLimitMax = 12345678.9, Activation = Activation.Relu,
                },
                ["attention"] = new AttentionOptions { NumHeads = 6, NumKeyValueHeads = 2, WindowSize = 5 },
                ["hybrid_attention"] = new HybridAttentionOptions
                {
                    MambaThreshold = 7, AttentionConfig = new() { NumHeads = 4 }, MambaConfig = new() { DConv = 2 },
                },
            },
        },
        Training = new TrainingOptions { Steps = 7, LearningRate = 1.0 / 3, Seed = long.MinValue, GradientClip = 3 },
        Modules = new ModuleStackOptions
        {
            HiddenSize = 24,
            Active = [new("attention", new AttentionOptions { NumHeads = 3 }), new("mamba", new MambaOptions { UseBias = true })],
        },
    };

    [Fact]
    public void WhatIsWritten_ReadsBackEqual()
    {
        var read = HybridConfig.Parse(Full.ToToml());

        Assert.Equivalent(Full.Model, read.Model, strict: true);
        Assert.Equal(Full.Training, read.Training);
        Assert.Equivalent(Full.Modules, read.Modules, strict: true);
        Assert.Equal(Full, read);
        Assert.Equal(Full.GetHashCode(), read.GetHashCode());
        Assert.Equal(Full.ToToml(), read.ToToml());
    }

    [Fact]
    public void WhatStatesTheLayers_ReadsBackEqual()
    {
        foreach (var model in new LanguageModelOptions[] { new(), new() { AttentionEvery = 2, Backbone = "mamba" }, new() { AttentionLayers = [0, 5] } })
        {
            Assert.Equivalent(model, HybridConfig.Parse(new HybridConfig { Model = model }.ToToml()).Model, strict: true);
        }
    }

    [Fact]
    public void Equality_IsThatOfTheToml_WhereverItComesFrom()
    {
        Assert.Equal(Full, Full with { SourceName = "elsewhere.toml" });
        Assert.NotEqual(Full, Full with { Training = Full.Training! with { LearningRate = Math.BitIncrement(1.0 / 3) } });
        Assert.NotEqual(Full, Full with { Modules = null });
        Assert.NotEqual(Full, Full with { Model = Full.Model! with { Layers = ["mamba", "hybrid_attention", "attention"] } });
        Assert.False(Full.Equals(null));
    }

    [Fact]
    public void EveryKindOfValue_ReadsBackEqual_InAnyCulture()
    {
        var options = new TestMixerOptions
        {
            Long = long.MaxValue, Int = int.MinValue, Double = 1e22, Bool = true, Day = DayOfWeek.Saturday,
            Text = "quote \" backslash \\ apostrophe ' newline \n return \r tab \t null \0 delete \x7f umlaut \u00e4 face \U0001F600",
            MaybeLong = -4, MaybeInt = 0, MaybeDouble = double.Epsilon, MaybeBool = false, MaybeText = "", MaybeDay = DayOfWeek.Monday,
            Ints = [], MaybeTexts = ["]", "#", "a, b"],
            Doubles = [0.1, -0.0, 1.5e-9, double.MaxValue, double.PositiveInfinity, double.NegativeInfinity, 5],
            Inner = new TestInnerOptions { A = 2 }, MaybeInner = new TestInnerOptions { OldName2D = 3 },
        };
        var config = new HybridConfig
        {
            Model = new() { Layers = ["test_kinds"], Mixers = new Dictionary<string, object> { ["test_kinds"] = options } },
        };

        var (before, comma) = (CultureInfo.CurrentCulture, (CultureInfo)CultureInfo.InvariantCulture.Clone());
        comma.NumberFormat.NumberDecimalSeparator = ",";
        comma.NumberFormat.NegativeSign = "~";
        try
        {
            CultureInfo.CurrentCulture = comma;
            var read = (TestMixerOptions)HybridConfig.Parse(config.ToToml()).Model!.Mixers["test_kinds"];
            Assert.Equivalent(options, read, strict: true);
            Assert.True(double.IsNegative(read.Doubles[1]));
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Fact]
    public void TheText_IsWhatAPersonWouldWrite()
    {
        var options = new TestMixerOptions { MaybeTexts = ["a"], Double = 2 };
        var config = new HybridConfig { Modules = new() { HiddenSize = 8, Active = [new("test_kinds", options)] } };

        Assert.Equal(
            """
            [modules]
            active = ["test_kinds"]

            [modules.test_kinds]
            hidden_size = 8
            long = 1
            int = 2
            double = 2.0
            bool = false
            text = ""
            day = "sunday"
            ints = []
            maybe_texts = ["a"]
            doubles = []

            [modules.test_kinds.inner]
            a = 0
            old_name2_d = 0

            """.ReplaceLineEndings("\n"),
            config.ToToml());
    }
}
