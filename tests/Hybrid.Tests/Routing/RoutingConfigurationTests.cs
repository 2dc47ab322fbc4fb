using Hybrid.Attention;
using Hybrid.Configuration;
using Hybrid.Kernels;
using Hybrid.Mixers;
using Hybrid.Routing;
using Hybrid.Tests.Infrastructure;
using Microsoft.Extensions.Logging;
using Xunit;

namespace Hybrid.Tests.Routing;

/// <summary>The keys of a router in TOML.</summary>
public class RoutingConfigurationTests
{
    private const string Head = "[modules]\nactive = ['hybrid_attention']\n[modules.hybrid_attention]\nhidden_size = 16\n";

    [Fact]
    public void EveryKeyOfARouterCanBeStated()
    {
        var options = Read(
            """
            mamba_threshold = 64
            transformer_max_length = 128
            confidence = "classic"
            policy = "composite"
            enable_caching = false
            cache_capacity = 10
            collect_metrics = false
            log_decisions = true
            timing = "device"
            shadow_rate = 0.5
            on_threshold_crossing = "reprefill"
            reprefill_max_tokens = 99
            use_mixed_precision = false
            [modules.hybrid_attention.content]
            novelty_weight = 2
            repetition_weight = 0.5
            variance_weight = 0.25
            complexity_threshold = 0.4
            [modules.hybrid_attention.composite]
            mode = "weighted"
            length_weight = 1
            content_weight = 2
            batch_weight = 3
            memory_weight = 4
            training_weight = 5
            batch_reference = 6
            memory_reference_mib = 7
            [modules.hybrid_attention.mamba_config]
            scan_type = "linear"
            """);
        Assert.Equal(
            new HybridAttentionOptions
            {
                MambaThreshold = 64,
                TransformerMaxLength = 128,
                Confidence = ConfidenceKind.Classic,
                Policy = "composite",
                EnableCaching = false,
                CacheCapacity = 10,
                CollectMetrics = false,
                LogDecisions = true,
                Timing = CallTiming.Device,
                ShadowRate = 0.5,
                OnThresholdCrossing = ThresholdCrossing.Reprefill,
                ReprefillMaxTokens = 99,
                Content = new ContentPolicyOptions { NoveltyWeight = 2, RepetitionWeight = 0.5, VarianceWeight = 0.25, ComplexityThreshold = 0.4 },
                Composite = new CompositePolicyOptions
                {
                    Mode = CompositeMode.Weighted,
                    ContentWeight = 2,
                    BatchWeight = 3,
                    MemoryWeight = 4,
                    TrainingWeight = 5,
                    BatchReference = 6,
                    MemoryReferenceMib = 7,
                    Rules = options.Composite!.Rules,
                },
                MambaConfig = new MambaOptions { ScanType = ScanType.Linear },
            },
            options);
        Assert.Empty(options.Composite!.Rules);
    }

    [Fact]
    public void PoliciesAreMadeFromTheirTables()
    {
        Assert.IsType<LengthThresholdPolicy>(PolicyOf(""));
        Assert.IsType<ContentPolicy>(PolicyOf("policy = 'content'"));
        Assert.Empty(Assert.IsType<AdaptivePolicy>(PolicyOf("policy = 'adaptive'")).Calibrations);
        var measured = PolicyOf("policy = 'adaptive'\nadaptive = { lengths = [8, 16], attention_ms = [1.0, 4.0], mamba_ms = [2, 2], dtype = 'float32', device = 'cpu' }");
        Assert.Equal(12, measured.Decide(new RoutingRequest(11)).Threshold);
        var composite = PolicyOf("policy = 'composite'\ncomposite.rules = ['length > 7 -> mamba', 'training -> attention']");
        Assert.Equal("length > 7 -> mamba", composite.Decide(new RoutingRequest(8)).Detail);

        static RoutingPolicy PolicyOf(string toml)
        {
            using var router = new HybridAttention(16, Read(toml) with { AttentionConfig = new AttentionOptions { NumHeads = 2 } });
            return router.Policy;
        }
    }

    [Fact]
    public void RulesAreWrittenAndReadBack()
    {
        var config = Parse("policy = 'composite'\n[modules.hybrid_attention.composite]\nrules = ['length > 7 and training -> mamba']");
        Assert.Equal(config, HybridConfig.Parse(config.ToToml()));
    }

    [Theory]
    [InlineData("policy = 'lenght'", 5, "policy", "expected one of adaptive, composite, content, length")]
    [InlineData("polici = 'length'", 5, "polici", "did you mean 'policy'?")]
    [InlineData("content = { novelty_weight = 2 }", 5, "content", "the policy 'length' does not read it")]
    [InlineData("policy = 'content'\nadaptive = { lengths = [1], attention_ms = [1.0], mamba_ms = [1.0] }", 6, "adaptive", "does not read it")]
    [InlineData("policy = 'composite'", 3, "composite", "expected a table of rules or weights with the policy 'composite'; found nothing")]
    [InlineData("policy = 'composite'\ncomposite.rules = ['length > x -> mamba']", 6, "composite.rules", "a number after '>'; got 'x'")]
    [InlineData("policy = 'content'\ncontent.novelty_weight = -1", 6, "content.novelty_weight", "expected at least 0; found -1")]
    [InlineData("policy = 'content'\ncontent.novelty_weigth = 1", 6, "content.novelty_weigth", "did you mean 'novelty_weight'?")]
    [InlineData("on_threshold_crossing = 'run'", 5, "on_threshold_crossing", "expected one of \"stay\", \"reprefill\", \"throw\"")]
    [InlineData("timing = 'gpu'", 5, "timing", "expected one of \"none\", \"host\", \"device\"")]
    [InlineData("shadow_rate = 1.5", 5, "shadow_rate", "expected 0..1; found 1.5")]
    [InlineData("cache_capacity = 0", 5, "cache_capacity", "expected at least 1; found 0")]
    [InlineData("mamba_config.scan_type = 'parallel'", 5, "mamba_config.scan_type", "expected one of \"auto\", \"linear\", \"associative\", \"fused\"")]
    [InlineData("use_fused_kernels = true\nuse_tpu_optimizations = true", 6, "use_tpu_optimizations", "is the old name of use_fused_kernels, which is given too")]
    public void AWrongKeySaysWhereAndWhat(string toml, int line, string key, string text)
    {
        var error = Assert.Throws<HybridConfigException>(() => Read(toml));
        Assert.Equal(($"modules.hybrid_attention.{key}", line), (error.Key, error.Line));
        Assert.Contains(text, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("use_tpu_optimizations = false", "(5,1): use_tpu_optimizations")]
    [InlineData("use_fused_kernels = false", null)]
    [InlineData("mamba_config = { use_tpu_optimizations = false }", "(5,18): use_tpu_optimizations")]
    public void TheOldNameOfFusedKernelsIsReadWithAWarning(string toml, string? warning)
    {
        var log = new ListLogger();
        var config = HybridConfig.Parse(Head + toml, "x.toml", log);
        Assert.False(((HybridAttentionOptions)config.Modules!.Active[0].Options).MambaConfig.UseFusedKernels);
        Assert.Equal(warning is null ? [] : [(LogLevel.Warning, $"x.toml{warning} is an old name; write use_fused_kernels")], log.Entries);
    }

    [Fact]
    public void TheOldNameIsReadInAMambaModuleToo()
    {
        var log = new ListLogger();
        var config = HybridConfig.Parse("[modules]\nactive = ['mamba']\nmamba.use_tpu_optimizations = false", "x.toml", log);
        Assert.False(((MambaOptions)config.Modules!.Active[0].Options).UseFusedKernels);
        Assert.Single(log.Entries);
    }

    private static HybridConfig Parse(string toml) => HybridConfig.Parse(Head + toml, "x.toml");

    private static HybridAttentionOptions Read(string toml) => (HybridAttentionOptions)Parse(toml).Modules!.Active[0].Options;
}
