using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Configuration;
using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Modeling;
using Hybrid.Routing;
using Hybrid.Training;
using Xunit;

namespace Hybrid.Tests.Configuration;

public class HybridConfigParseTests
{
    [Fact]
    public void AModelWithoutKeys_HasTheDefaults()
    {
        var config = HybridConfig.Parse("[model]");

        Assert.Equal("configuration", config.SourceName);
        Assert.Equivalent(new LanguageModelOptions(), config.Model, strict: true);
        Assert.Null(config.Training);
        Assert.Null(config.Modules);
    }

    [Fact]
    public void KeysOfReleasedModels_ReachTheirProperties()
    {
        var config = HybridConfig.Parse(
            """
            [model]
            hidden_size = 24
            num_layers = 3
            embedding_multiplier = 1.5
            residual_multiplier = 0.6
            logits_multiplier = 0.7
            logits_soft_cap = 30
            norm = "layer_norm"
            final_norm_eps = 1e-4
            rescale_every = 2
            norm_embedding = true
            layers = ["mamba", "attention", "falcon_h1"]
            feed_forward = { kind = "geglu_tanh", use_bias = false, gate_multiplier = 0.8, output_multiplier = 1.3 }
            mixture_of_experts = { num_experts = 2, top_k = 1, dense_layers = [0] }
            mamba = { inner_size = 40, use_inner_norms = true, use_inner_norm_weights = false }
            [model.attention]
            num_heads = 3
            qk_rms_norm = true
            qk_rms_norm_eps = 1e-5
            use_output_gate = true
            use_output_bias = true
            key_multiplier = 0.65
            [model.falcon_h1]
            mamba_output_multiplier = 0.75
            attention_input_multiplier = 0.9
            attention_output_multiplier = 1.2
            attention_config = { num_heads = 3 }
            [model.falcon_h1.mamba_config]
            head_dim = 8
            inner_size = 32
            use_norm = false
            use_output_bias = true
            input_multiplier = 1.25
            projection_multipliers = [0.7, 1.1, 0.9, 1.4, 0.8]
            """);
        var model = config.Model!;

        Assert.Equal((1.5, 0.6, 0.7, 30.0), (model.EmbeddingMultiplier, model.ResidualMultiplier, model.LogitsMultiplier, model.LogitsSoftCap));
        Assert.Equal((NormKind.LayerNorm, 1e-4, 2, true), (model.Norm, model.FinalNormEps, model.RescaleEvery, model.NormEmbedding));
        Assert.Equal(
            new FeedForwardOptions { Kind = FeedForwardKind.GegluTanh, UseBias = false, GateMultiplier = 0.8, OutputMultiplier = 1.3 }, model.FeedForward);
        Assert.Equal([0], model.MixtureOfExperts!.DenseLayers!);
        Assert.Equal(new MambaOptions { InnerSize = 40, UseInnerNorms = true, UseInnerNormWeights = false }, model.Mixers["mamba"]);
        Assert.Equal(
            new AttentionOptions { NumHeads = 3, QkRmsNorm = true, QkRmsNormEps = 1e-5, UseOutputGate = true, UseOutputBias = true, KeyMultiplier = 0.65 },
            model.Mixers["attention"]);
        var falcon = (FalconH1Options)model.Mixers["falcon_h1"];
        Assert.Equal((0.75, 0.9, 1.2), (falcon.MambaOutputMultiplier, falcon.AttentionInputMultiplier, falcon.AttentionOutputMultiplier));
        Assert.Equal((32, false, true, 1.25), (falcon.MambaConfig.InnerSize, falcon.MambaConfig.UseNorm, falcon.MambaConfig.UseOutputBias, falcon.MambaConfig.InputMultiplier));
        Assert.Equal([0.7, 1.1, 0.9, 1.4, 0.8], falcon.MambaConfig.ProjectionMultipliers!);

        // It makes a model, whose configuration can be written and read again.
        using var made = new CausalLanguageModel(model);
        Assert.Equal(config.ToToml(), HybridConfig.Parse(config.ToToml()).ToToml());
    }

    [Fact]
    public void EveryKeyOfTheModel_ReachesItsProperty()
    {
        var model = HybridConfig.Parse(
            """
            [model]
            vocab_size = 1_000
            hidden_size = 64
            num_layers = 5
            max_seq_len = 0x100
            tie_embeddings = false
            norm_eps = 1          # an integer does where a number is expected
            dropout_rate = 0.25
            pre_norm = false
            position_encoding = "sinusoidal"
            use_gradient_checkpointing = true
            backbone = "mamba"
            attention_layers = [1, 4]
            feed_forward = { kind = "gelu", intermediate_size = 99 }
            mamba.d_state = 7
            mamba.activation = "swish"
            [model.attention]
            num_heads = 4
            num_key_value_heads = 2
            qk_layernorm = true
            """).Model!;

        Assert.Equal((1000, 64, 5, 256), (model.VocabSize, model.HiddenSize, model.NumLayers, model.MaxSeqLen));
        Assert.Equal((false, 1.0, 0.25, false), (model.TieEmbeddings, model.NormEps, model.DropoutRate, model.PreNorm));
        Assert.Equal((PositionEncodingKind.Sinusoidal, true), (model.PositionEncoding, model.UseGradientCheckpointing));
        Assert.Equal(("mamba", null, null), (model.Backbone, model.AttentionEvery, model.Layers));
        Assert.Equal([1, 4], model.AttentionLayers!);
        Assert.Equal(new FeedForwardOptions { Kind = FeedForwardKind.Gelu, IntermediateSize = 99 }, model.FeedForward);
        Assert.Equal(["attention", "mamba"], model.Mixers.Keys.Order());
        Assert.Equal(new MambaOptions { DState = 7, Activation = Activation.Silu }, model.Mixers["mamba"]);
        Assert.Equal(new AttentionOptions { NumHeads = 4, NumKeyValueHeads = 2, QkLayernorm = true }, model.Mixers["attention"]);
    }

    [Theory]
    [InlineData("attention_layers = 'auto'", "m m m a m m m a")]
    [InlineData("attention_layers = []", "m m m m m m m m")]
    [InlineData("ratio = { backbone = 3 }", "m m m a m m m a")]
    [InlineData("ratio = { backbone = 1, attention = 1 }\nbackbone = 'gru'", "g a g a g a g a")]
    [InlineData("hybrid_override_pattern = 'M-*EM-*E'\nbackbone = 'gru'", "gru mlp attention experts gru mlp attention experts")]
    [InlineData("layers = ['mamba', 'mlp']", "mamba mlp mamba mlp mamba mlp mamba mlp")]
    public void EveryWayToStateTheLayers(string keys, string layers)
    {
        var config = HybridConfig.Parse($"[model]\nnum_layers = 8\n{keys}");
        var pattern = config.Model!.ResolvePattern();
        Assert.Equal(layers, layers.Contains("mlp", StringComparison.Ordinal) ? string.Join(' ', pattern.Mixers) : pattern.ToString());
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
    }

    [Fact]
    public void EveryKeyOfTheTraining_ReachesItsProperty()
    {
        var training = HybridConfig.Parse(
            """
            [training]
            steps = 1
            batch_size = 2
            sequence_length = 3
            learning_rate = 0.4
            min_learning_rate = 0.05
            warmup_steps = 6
            weight_decay = 0.7
            beta1 = 0.8
            beta2 = 0.9
            gradient_clip = 10
            validation_fraction = 0.11
            eval_every = 12
            seed = -13
            explore_every = 14
            [model]
            """).Training;

        Assert.Equal(
            new TrainingOptions
            {
                Steps = 1, BatchSize = 2, SequenceLength = 3, LearningRate = 0.4, MinLearningRate = 0.05, WarmupSteps = 6,
                WeightDecay = 0.7, Beta1 = 0.8, Beta2 = 0.9, GradientClip = 10, ValidationFraction = 0.11, EvalEvery = 12, Seed = -13,
                ExploreEvery = 14,
            },
            training);
    }

    [Fact]
    public void ARecordOfTheUsersOwn_BindsAsTheLibrarysDo()
    {
        var options = Parse<TestMixerOptions>(
            """
            long = -9223372036854775808
            int = 2147483647
            double = 3
            bool = true
            text = "a\tb"
            day = "wednesday"
            maybe_long = 4
            maybe_int = 5
            maybe_double = 6.5
            maybe_bool = false
            maybe_text = ''
            maybe_day = "friday"
            ints = [3, 1, 2]
            maybe_texts = ["x", "y"]
            doubles = [1, 0.5, -inf]
            [model.test_kinds.inner]
            a = 7
            [model.test_kinds.maybe_inner]
            hidden_size = 64
            old_name2_d = 8
            """);

        Assert.Equivalent(
            new TestMixerOptions
            {
                Long = long.MinValue, Int = int.MaxValue, Double = 3, Bool = true, Text = "a\tb", Day = DayOfWeek.Wednesday,
                MaybeLong = 4, MaybeInt = 5, MaybeDouble = 6.5, MaybeBool = false, MaybeText = "", MaybeDay = DayOfWeek.Friday,
                Ints = [3, 1, 2], MaybeTexts = ["x", "y"], Doubles = [1, 0.5, double.NegativeInfinity],
                Inner = new TestInnerOptions { A = 7 }, MaybeInner = new TestInnerOptions { OldName2D = 8 },
            },
            options,
            strict: true);
    }

    [Theory]
    [InlineData("factory = 1", "factory", 5)]
    [InlineData("twice = 1", "twice", 5)]
    [InlineData("inner.a = 11", "inner.a", 5)]
    [InlineData("inner.a = 9\nhidden_size = 8", "hidden_size", 6)]
    [InlineData("inner = { a = 1, b = 2 }", "inner.b", 5)]
    [InlineData("doubles = [1, 2, []]", "doubles[2]", 5)]
    public void ARecordOfTheUsersOwn_HasTheSameErrors(string keys, string key, int line)
    {
        var error = Assert.Throws<HybridConfigException>(() => Parse<TestMixerOptions>(keys));
        Assert.Equal(($"model.test_kinds.{key}", line), (error.Key, error.Line));
    }

    [Fact]
    public void AValidationOfAnotherStyle_StillSaysWhereAndWhat()
    {
        var error = Assert.Throws<HybridConfigException>(
            () => HybridConfig.Parse("model.hidden_size = 8\nmodel.layers = ['test_kinds']\nmodel.test_kinds.inner.a = 9", "x.toml"));

        Assert.Equal("x.toml(3,24): [model.test_kinds.inner] a: too wide: a, 9, for 8", error.Message);
        Assert.Equal(("too wide: a, 9, for 8", "9"), (error.Expected, error.Found));
    }

    [Theory]
    [InlineData("num_heads = 2", 2)]
    [InlineData("attention_config.num_heads = 4", 4)]
    [InlineData("num_heads = 2\nattention_config.num_heads = 4", 4)]
    [InlineData("attention_config.num_heads = 4\nnum_heads = 2", 4)]
    [InlineData("num_heads = 2\nattention_config.use_rope = false", 2)]
    [InlineData("", 8)]
    public void NumHeadsOfTheRouter_StandsForThatOfItsAttention_WhichWins(string keys, long expected)
    {
        var config = HybridConfig.Parse($"[model]\nhidden_size = 64\nlayers = ['hybrid_attention']\n[model.hybrid_attention]\n{keys}");

        var options = Assert.IsType<HybridAttentionOptions>(config.Model!.Mixers["hybrid_attention"]);
        Assert.Equal(expected, options.AttentionConfig.NumHeads);
        Assert.Equal(!keys.Contains("use_rope", StringComparison.Ordinal), options.AttentionConfig.UseRope);
    }

    [Fact]
    public void EveryKeyOfTheRouter_ReachesItsProperty()
    {
        var model = HybridConfig.Parse(
            """
            [model]
            layers = ["hybrid_attention"]
            [model.hybrid_attention]
            hidden_size = 256
            num_heads = 2
            mamba_threshold = 3
            transformer_max_length = 4
            confidence = "classic"
            residual_branches = false
            intermediate_size = 5
            dropout_rate = 0.6
            layer_norm_eps = 0.7
            mamba_config = { hidden_size = 256, d_state = 8 }
            [model.hybrid_attention.attention_config]
            window_size = 9
            """).Model!;

        Assert.Equal(
            new HybridAttentionOptions
            {
                MambaThreshold = 3, TransformerMaxLength = 4, Confidence = ConfidenceKind.Classic, ResidualBranches = false,
                IntermediateSize = 5, DropoutRate = 0.6, LayerNormEps = 0.7,
                MambaConfig = new() { DState = 8 }, AttentionConfig = new() { NumHeads = 2, WindowSize = 9 },
            },
            model.Mixers["hybrid_attention"]);
    }

    [Fact]
    public void Load_ReadsAFile_AndNamesItInErrors()
    {
        var path = Path.GetTempFileName();
        try
        {
            File.WriteAllText(path, "\uFEFF[model]\r\nnum_layers = 2\r\n");
            var config = HybridConfig.Load(path);
            Assert.Equal((path, 2), (config.SourceName, config.Model!.NumLayers));

            File.WriteAllText(path, "[model]\r\n\r\nnum_layers = ''\r\n");
            var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Load(path));
            Assert.Equal((path, 3, 1), (error.File, error.Line, error.Column));
        }
        finally
        {
            File.Delete(path);
        }
    }

    // Where a key is written decides its place, whatever way it is written.
    [Theory]
    [InlineData("model.mamba.bad = 1", 1, 13)]
    [InlineData("model = { mamba = { bad = 1 } }", 1, 21)]
    [InlineData("[model]\nmamba = { d_state = 1,\n  bad = 1 }", 3, 3)]
    [InlineData("[model]\n\"mamba\".'bad' = 1", 2, 9)]
    [InlineData("[model.mamba]\nd_state = 1 # bad = 1\n\tbad = 1", 3, 2)]
    [InlineData("[model]\nbackbone = '''\nmamba'''\n[ model . mamba ]\nbad = 1", 5, 1)]
    [InlineData("[model]\nnum_layers = 2\n[training]\nsteps = 1\n[model.mamba]\nbad = 1", 6, 1)]
    public void ThePlaceOfAKey_IsItsOwn(string toml, int line, int column)
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse(toml));
        Assert.Equal(("model.mamba.bad", line, column), (error.Key, error.Line, error.Column));
    }

    // The keys begin at line 5.
    private static T Parse<T>(string keys) => Assert.IsType<T>(
        HybridConfig.Parse($"[model]\nhidden_size = 64\nlayers = ['test_kinds']\n[model.test_kinds]\n{keys}").Model!.Mixers["test_kinds"]);
}
