using Hybrid.Configuration;
using Xunit;

namespace Hybrid.Tests.Configuration;

/// <summary>Every way to get a file wrong: file, line, column, key, what was expected, what was found, and the message.</summary>
public class HybridConfigErrorTests
{
    [Theory]

    // Unknown names.
    [InlineData("[model]\n  num_layer = 2", 2, 3, "model.num_layer",
        null, "num_layer", "[model] num_layer: unknown key; did you mean 'num_layers'?")]
    [InlineData("[model]\n[model.mamba]\nd_sate = 1", 3, 1, "model.mamba.d_sate",
        null, "d_sate", "[model.mamba] d_sate: unknown key; did you mean 'd_state'?")]
    [InlineData("[model]\n[model.mabma]\nd_state = 1", 2, 8, "model.mabma",
        null, "mabma", "[model] mabma: unknown table; did you mean 'mamba'?")]
    [InlineData("[model]\n\n[trainig]\nsteps = 1", 3, 2, "trainig",
        "one of backbone, model, modules, training", "trainig", "trainig: unknown table; did you mean 'training'?")]
    [InlineData("model.mamba = { d_conv = 4, \"d state\" = 1 }", 1, 29, "model.mamba.d state",
        null, "d state", "[model.mamba] d state: unknown key; did you mean 'd_state'?")]
    [InlineData("[model.hybrid_attention]\nnum_head = 2\n[model]\nlayers = ['hybrid_attention']", 2, 1, "model.hybrid_attention.num_head",
        null, "num_head", "[model.hybrid_attention] num_head: unknown key; did you mean 'num_heads'?")]
    [InlineData("[model]\nbackbone = \"mambo\"", 2, 1, "model.backbone",
        null, "\"mambo\"", "[model] backbone: there is no mixer 'mambo'; did you mean 'mamba'?")]
    [InlineData("[model]\nlayers = [\n  'mamba',\n  'attentoin',\n]", 2, 1, "model.layers[1]",
        null, "\"attentoin\"", "[model] layers[1]: there is no mixer 'attentoin'; did you mean 'attention'?")]

    // Wrong kinds.
    [InlineData("[model]\nnum_layers = \"six\"", 2, 1, "model.num_layers", "an integer", "\"six\"")]
    [InlineData("[model]\nhidden_size = 256.0", 2, 1, "model.hidden_size", "an integer", "256.0")]
    [InlineData("[model]\nnum_layers = 3000000000", 2, 1, "model.num_layers", "an integer of -2147483648..2147483647", "3000000000")]
    [InlineData("[model]\ndropout_rate = true", 2, 1, "model.dropout_rate", "a number", "true")]
    [InlineData("[model]\npre_norm = 1", 2, 1, "model.pre_norm", "true or false", "1")]
    [InlineData("[model]\nbackbone = ['mamba']", 2, 1, "model.backbone", "a string", "an array")]
    [InlineData("[model]\nbackbone = 2024-01-01", 2, 1, "model.backbone", "a string", "a date or time")]
    [InlineData("[model]\nlayers = 'mamba'", 2, 1, "model.layers", "an array", "\"mamba\"")]
    [InlineData("[model]\nattention_layers = [0, '1']", 2, 1, "model.attention_layers[1]", "an integer", "\"1\"")]
    [InlineData("[model]\nfeed_forward = 'swiglu'", 2, 1, "model.feed_forward", "a table", "\"swiglu\"")]
    [InlineData("[model]\nvocab_size = { a = 1 }", 2, 1, "model.vocab_size", "an integer", "a table")]
    [InlineData("[[model.mamba]]\nd_state = 1", 1, 9, "model.mamba", "a table", "an array of tables")]
    [InlineData("model = 3", 1, 1, "model", "a table", "3")]
    [InlineData("[model.mamba]\nactivation = 'sillu'",
        2, 1, "model.mamba.activation", "one of \"identity\", \"silu\", \"gelu\", \"relu\"", "\"sillu\"",
        "[model.mamba] activation: expected one of \"identity\", \"silu\", \"gelu\", \"relu\"; found \"sillu\"; did you mean 'silu'?")]

    // Out of range.
    [InlineData("[model]\nnum_layers = 0", 2, 1, "model.num_layers", "at least 1", "0")]
    [InlineData("[model.mamba]\nd_state = 0", 2, 1, "model.mamba.d_state", "at least 1", "0")]
    [InlineData("[model]\n[training]\nbeta2 = 1", 3, 1, "training.beta2", "0 or more and below 1", "1")]
    [InlineData("[model]\n[training]\nlearning_rate = nan", 3, 1, "training.learning_rate", "positive", "NaN")]
    [InlineData("[model]\nattention_every = 0", 2, 1, "model.attention_every", "at least 1", "0")]
    [InlineData("[model]\nnum_layers = 2\nattention_layers = [0, 2]", 3, 1, "model.attention_layers",
        "0..1", "2", "[model] attention_layers: an attention layer must be 0..1; got 2")]
    [InlineData("[model]\nnum_layers = 1\nlayers = ['mamba', 'mamba']", 3, 1, "model.layers",
        null, "2", "[model] layers: a list for 1 layers must have 1..1 names; got 2")]

    [InlineData("[model]\nnum_layers = 4\nhybrid_override_pattern = 'M*x-'", 3, 1, "model.hybrid_override_pattern",
        "M (mixer), * (attention), - (MLP), E (experts) or G (gated delta)", "'x'",
        "[model] hybrid_override_pattern: layer 2 of 'M*x-' must be M (mixer), * (attention), - (MLP), E (experts) or G (gated delta); got 'x'")]
    [InlineData("[model]\nnum_layers = 3\nhybrid_override_pattern = 'M*'", 3, 1, "model.hybrid_override_pattern", null, "2, 'M*'",
        "[model] hybrid_override_pattern: hybrid_override_pattern must have a symbol for each of the 3 layers; got 2, 'M*'")]
    [InlineData("[model]\nratio.attention = 0", 2, 7, "model.ratio.attention", "at least 1", "0")]

    // Keys that do not go together.
    [InlineData("[model]\nattention_every = 2\nattention_layers = 'auto'",
        1, 2, "model", "state the layers in one way only", "attention_every and attention_layers",
        "[model]: state the layers in one way only; got attention_every and attention_layers")]
    [InlineData("[model]\nlayers = ['mamba']\nattention_every = 2",
        1, 2, "model", "state the layers in one way only", "layers and attention_every",
        "[model]: state the layers in one way only; got layers and attention_every")]
    [InlineData("[model]\nhidden_size = 64\n[model.attention]\nnum_heads = 8\nnum_key_value_heads = 3",
        5, 1, "model.attention.num_key_value_heads", "num_key_value_heads must divide num_heads, 8", "3",
        "[model.attention] num_key_value_heads: num_key_value_heads must divide num_heads, 8; got 3")]
    [InlineData("[model]\nhidden_size = 100\n[model.attention]\nnum_heads = 8", 4, 1, "model.attention.num_heads",
        null, "8", "[model.attention] num_heads: the width, 100, must be a multiple of num_heads, 8, unless head_dim is set")]
    [InlineData("[model]\nhidden_size = 100", 1, 2, "model.attention.num_heads",
        null, "8", "[model] attention.num_heads: the width, 100, must be a multiple of num_heads, 8, unless head_dim is set")]
    [InlineData("[model]\nlayers = ['hybrid_attention']\nhidden_size = 100\n[model.hybrid_attention]\n  num_heads = 3",
        5, 3, "model.hybrid_attention.num_heads", null, "3",
        "[model.hybrid_attention] num_heads: the width, 100, must be a multiple of num_heads, 3, unless head_dim is set")]
    [InlineData("[model]\nlayers = ['mamba']\n[model.attention]\nnum_heads = 2", 3, 8, "model.attention",
        "a mixer of the layers: mamba", "attention", "[model] attention: no layer has this mixer; the layers have mamba")]
    [InlineData("[model]\nhidden_size = 64\n[model.mamba]\nhidden_size = 32", 4, 1, "model.mamba.hidden_size",
        "64, the hidden_size around it", "32")]
    [InlineData("[training]\nsteps = 1", 1, 1, "", "[model], [backbone] or [modules]", "none of them", "expected [model], [backbone] or [modules]; found none of them")]
    [InlineData("", 1, 1, "", "[model], [backbone] or [modules]", "none of them", "expected [model], [backbone] or [modules]; found none of them")]
    public void AWrongFile_SaysWhereAndWhat(
        string toml, int line, int column, string key, string? expected, string found, string? message = null)
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse(toml, "dir/x.toml"));

        Assert.Equal(("dir/x.toml", line, column, key, found), (error.File, error.Line, error.Column, error.Key, error.Found));
        if (expected is not null)
        {
            Assert.Equal(expected, error.Expected);
        }

        // Most messages say no more than that.
        var dot = key.LastIndexOf('.');
        message ??= $"{(dot < 0 ? "" : $"[{key[..dot]}] ")}{key[(dot + 1)..]}: expected {expected}; found {found}";
        Assert.Equal($"dir/x.toml({line},{column}): {message}", error.Message);
    }

    [Fact]
    public void AnUnknownKey_WithNothingNear_ListsWhatThereIs()
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse("[model.feed_forward]\nzzz = 1"));

        Assert.Equal("configuration(2,1): [model.feed_forward] zzz: unknown key; known: gate_multiplier, intermediate_size, kind, output_multiplier, use_bias", error.Message);
        Assert.Equal("one of gate_multiplier, intermediate_size, kind, output_multiplier, use_bias", error.Expected);
    }

    [Fact]
    public void AnUnknownMixer_WithNothingNear_ListsWhatThereIs()
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse("[model]\nbackbone = ''"));

        var names = string.Join(", ", MixerRegistry.Names);
        Assert.Equal($"configuration(2,1): [model] backbone: there is no mixer ''; known: {names}", error.Message);
        Assert.Equal($"one of {names}", error.Expected);
    }

    // The words are Tomlyn's, the line is where the text stops being TOML.
    [Theory]
    [InlineData("[model]\nnum_layers = = 2", 2)]
    [InlineData("[model]\nnum_layers 2\nhidden_size = 3", 2)]
    [InlineData("[model]\nnum_layers = 2\n\nnum_layers = 3", 4)]
    [InlineData("[model]\n[training]\n[model]", 3)]
    public void WhatIsNotToml_IsReportedWithItsLine(string toml, int line)
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse(toml, "x.toml"));

        Assert.Equal(("x.toml", line, "", "TOML"), (error.File, error.Line, error.Key, error.Expected));
        Assert.StartsWith($"x.toml({line},{error.Column}): this is not TOML: ", error.Message, StringComparison.Ordinal);
        Assert.EndsWith(error.Found, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain(" : error : ", error.Message, StringComparison.Ordinal);
        Assert.IsType<Tomlyn.TomlException>(error.InnerException);
    }

    [Fact]
    public void Load_OfAMissingFile_IsAnIOException() => Assert.Throws<FileNotFoundException>(() => HybridConfig.Load("no-such-file.toml"));

    [Fact]
    public void AnErrorOfValidation_KeepsItsCause()
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse("[model.mamba]\nd_state = 0"));
        Assert.Equal("DState", Assert.IsType<ArgumentOutOfRangeException>(error.InnerException).ParamName);
    }
}
