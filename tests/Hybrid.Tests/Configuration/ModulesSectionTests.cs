using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Mixers;
using Hybrid.Routing;
using Xunit;

namespace Hybrid.Tests.Configuration;

public class ModulesSectionTests
{
    [Fact]
    public void ActiveModules_ComeInTheirOrder_WithTheirOptions()
    {
        var modules = Read(
            """
            [modules.mamba]
            hidden_size = 64
            d_state = 4
            [modules.hybrid_attention]
            hidden_size = 64
            num_heads = 4
            mamba_threshold = 32
            mamba_config = { hidden_size = 64, d_state = 8 }
            [modules]
            active = ["hybrid_attention", "mamba"]
            """);

        Assert.Equal(64, modules.HiddenSize);
        Assert.Equal(
            [
                new StackedModule(
                    "hybrid_attention",
                    new HybridAttentionOptions
                    {
                        MambaThreshold = 32, AttentionConfig = new() { NumHeads = 4 }, MambaConfig = new() { DState = 8 },
                    }),
                new StackedModule("mamba", new MambaOptions { DState = 4 }),
            ],
            modules.Active);
    }

    [Fact]
    public void AModuleWithoutATable_HasItsDefaults()
    {
        var modules = Read("[modules]\nactive = ['attention']");
        Assert.Equal(768, modules.HiddenSize);
        Assert.Equal([new StackedModule("attention", new AttentionOptions())], modules.Active);
    }

    [Fact]
    public void AModuleThatIsNotEnabled_IsLeftOut_WhateverItsWidth()
    {
        var modules = Read(
            """
            [modules]
            active = ["mamba", "attention"]
            mamba = { enabled = false, hidden_size = 5 }
            attention = { enabled = true, hidden_size = 16 }
            """);
        Assert.Equal(16, modules.HiddenSize);
        Assert.Equal(["attention"], modules.Active.Select(module => module.Name));
    }

    [Fact]
    public void AModuleThatIsNotActive_IsLeftOut_ButChecked()
    {
        var modules = Read("[modules]\nactive = ['mamba']\n[modules.attention]\nhidden_size = 16");
        Assert.Equal(["mamba"], modules.Active.Select(module => module.Name));
        var error = Assert.Throws<HybridConfigException>(() => Read("[modules]\nactive = ['mamba']\n[modules.attention]\nnum_heads = 0"));
        Assert.Equal(("modules.attention.num_heads", 4), (error.Key, error.Line));
    }

    [Theory]
    [InlineData("[modules]", 1, 2, "modules.active", "an array of module names", "nothing")]
    [InlineData("[modules]\nactive = []", 2, 1, "modules.active", "at least one enabled module", "none")]
    [InlineData("[modules]\nactive = ['mamba']\nmamba.enabled = false", 2, 1, "modules.active", "at least one enabled module", "none")]
    [InlineData("[modules]\nactive = 'mamba'", 2, 1, "modules.active", "an array", "\"mamba\"")]
    [InlineData("[modules]\nactive = ['mamba', 3]", 2, 1, "modules.active[1]", "a string", "3")]
    [InlineData("[modules]\nactive = ['mamba', 'mamba']", 2, 1, "modules.active[1]",
        "each module once", "\"mamba\"", "[modules] active[1]: expected each module once; 'mamba' is already active[0]")]
    [InlineData("[modules]\nactive = ['mambba']", 2, 1, "modules.active[0]",
        null, "\"mambba\"", "[modules] active[0]: there is no mixer 'mambba'; did you mean 'mamba'?")]
    [InlineData("[modules]\nactiv = ['mamba']", 2, 1, "modules.activ",
        null, "activ", "[modules] activ: unknown key; did you mean 'active'?")]
    [InlineData("[modules]\nactive = ['mamba']\n[modules.mambba]", 3, 10, "modules.mambba",
        null, "mambba", "[modules] mambba: unknown table; did you mean 'mamba'?")]
    [InlineData("[modules]\nactive = ['mamba']\nmamba = 3", 3, 1, "modules.mamba", "a table", "3")]
    [InlineData("[modules]\nactive = ['mamba']\n[modules.mamba]\nenabled = 1", 4, 1, "modules.mamba.enabled", "true or false", "1")]
    [InlineData("[modules]\nactive = ['mamba']\n[modules.mamba]\nenable = true", 4, 1, "modules.mamba.enable",
        null, "enable", "[modules.mamba] enable: unknown key; did you mean 'enabled'?")]
    [InlineData("[modules]\nactive = ['mamba']\n[modules.mamba]\nhiden_size = 4", 4, 1, "modules.mamba.hiden_size",
        null, "hiden_size", "[modules.mamba] hiden_size: unknown key; did you mean 'hidden_size'?")]
    [InlineData("[modules]\nactive = ['mamba']\n[modules.mamba]\nhidden_size = 0", 4, 1, "modules.mamba.hidden_size", "at least 1", "0")]
    [InlineData("[modules.hybrid_attention]\nhidden_size = 64\n[modules.hybrid_attention.mamba_config]\n hidden_size = 32",
        4, 2, "modules.hybrid_attention.mamba_config.hidden_size", "64, the hidden_size around it", "32")]
    [InlineData("[modules]\nactive = ['hybrid_attention']\n[modules.hybrid_attention.mamba_config]\nhidden_size = 32",
        4, 1, "modules.hybrid_attention.mamba_config.hidden_size", "768, the hidden_size around it", "32")]
    [InlineData("[modules]\nactive = ['mamba', 'attention']\n[modules.mamba]\nhidden_size = 64\n[modules.attention]\nhidden_size = 32",
        6, 1, "modules.attention.hidden_size", "64, the hidden_size of 'mamba'", "32")]
    [InlineData("[modules]\nactive = ['mamba', 'attention']\n[modules.mamba]\nhidden_size = 64\n[modules.attention]\nnum_heads = 2",
        5, 10, "modules.attention.hidden_size", "64, the hidden_size of 'mamba'", "768")]
    [InlineData("[modules]\nactive = ['mamba', 'attention']\n[modules.mamba]\nhidden_size = 64", 2, 1, "modules.attention.hidden_size",
        "64, the hidden_size of 'mamba'", "768", "[modules] attention.hidden_size: expected 64, the hidden_size of 'mamba'; found 768")]
    public void AWrongSection_SaysWhereAndWhat(
        string toml, int line, int column, string key, string? expected, string found, string? message = null)
    {
        var error = Assert.Throws<HybridConfigException>(() => HybridConfig.Parse(toml, "x.toml"));

        Assert.Equal((line, column, key, found), (error.Line, error.Column, error.Key, error.Found));
        if (expected is not null)
        {
            Assert.Equal(expected, error.Expected);
        }

        // Most messages say no more than that.
        var dot = key.LastIndexOf('.');
        message ??= $"{(dot < 0 ? "" : $"[{key[..dot]}] ")}{key[(dot + 1)..]}: expected {expected}; found {found}";
        Assert.Equal($"x.toml({line},{column}): {message}", error.Message);
    }

    [Fact]
    public void AKeyOfTheModule_IsNoneOfItsSubTables()
    {
        var error = Assert.Throws<HybridConfigException>(
            () => Read("[modules]\nactive = ['hybrid_attention']\n[modules.hybrid_attention.mamba_config]\nenabled = true"));
        Assert.Equal(("modules.hybrid_attention.mamba_config.enabled", 4), (error.Key, error.Line));
        Assert.Contains("unknown key", error.Message, StringComparison.Ordinal);
    }

    private static ModuleStackOptions Read(string toml) => HybridConfig.Parse(toml).Modules!;
}
