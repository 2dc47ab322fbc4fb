using Hybrid.Configuration;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class Mamba2MixerTests
{
    // The cases were rounded to float32 from float64; the mixer rounds in float32 over 23 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("mamba2_mixer");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("mamba2_mixer", name);
        using var mixer = MixerOf(golden);
        GoldenMixer.CheckOutputAndGradients(golden, mixer, name, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void SingleStepsEqualTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("mamba2_mixer", name);
        using var mixer = MixerOf(golden);
        GoldenMixer.CheckSingleSteps(golden, mixer, name, Tolerance);
    }

    public static TheoryData<Mamba2Options> Variants => new(
        new Mamba2Options { DState = 3, HeadDim = 5, ExpandFactor = 3 },
        new Mamba2Options { DState = 3, HeadDim = 5, ExpandFactor = 2, NGroups = 2, NormGroups = 2, UseBias = true, DConv = 3 },
        new Mamba2Options { DState = 4, HeadDim = 1, NGroups = 5, NormBeforeGate = true, UseConvBias = false, ChunkSize = 3 },
        new Mamba2Options { DState = 2, HeadDim = 10, DtLimitMin = 0.02, NormGroups = 5, NormEps = 0.1 },
        new Mamba2Options { DState = 2, HeadDim = 2, DtLimitMin = 0.01, DtLimitMax = 0.02, NormBeforeGate = true, NormGroups = 2, ChunkSize = 1 });

    [Theory]
    [MemberData(nameof(Variants))]
    public void EqualsTheRecurrenceOfThePaper(Mamba2Options options)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new Mamba2Mixer(5, options);
        foreach (var (_, parameter) in mixer.named_parameters().Where(entry => entry.name is "D" or "norm.weight"))
        {
            parameter.uniform_(0.5, 1.5);
        }

        var x = Values.Normal(6, 1, 17, 5);
        var expected = new NaiveMamba2(mixer, options).Run(Values.Of(x));
        TensorAssert.Close(Values.Tensor32(expected, 1, 17, 5), mixer.call(x), Tolerance, "y");
    }

    [Fact]
    public void TheChunkSizeChangesNoResult()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var whole = new Mamba2Mixer(8, new Mamba2Options { HeadDim = 4, DState = 6, ChunkSize = 200 });
        var x = Values.Normal(7, 2, 131, 8);
        var expected = whole.call(x);
        foreach (var chunkSize in new long[] { 1, 2, 64, 130, 131 })
        {
            using var other = new Mamba2Mixer(8, new Mamba2Options { HeadDim = 4, DState = 6, ChunkSize = chunkSize });
            other.load_state_dict(whole.state_dict());
            TensorAssert.Close(expected, other.call(x), Tolerance, $"chunks of {chunkSize}");
        }
    }

    [Fact]
    public void AStateHoldsTheWindowAndTheRecurrence()
    {
        using var mixer = new Mamba2Mixer(6, new Mamba2Options { HeadDim = 4, DState = 5, NGroups = 3, DConv = 3 });
        using var state = (Mamba2State)mixer.CreateState(2);
        Assert.Equal([2, 2, 12 + (2 * 3 * 5)], state.Convolution.shape);
        Assert.Equal([2, 3, 4, 5], state.Recurrent.shape);
        Assert.Equal(((2 * 2 * 42) + (2 * 3 * 4 * 5)) * sizeof(float), state.ByteSize);
        Assert.Equal(["conv", "ssm"], state.NamedTensors.Select(entry => entry.Name));
    }

    [Fact]
    public void DecayRatesSkipsAndStepBiasesHaveNoWeightDecay()
    {
        using var mixer = new Mamba2Mixer(32);
        var names = mixer.named_parameters()
            .Where(entry => mixer.ParametersWithoutWeightDecay.Any(parameter => ReferenceEquals(parameter, entry.parameter)))
            .Select(entry => entry.name);
        Assert.Equal(["A_log", "D", "dt_bias"], names.Order(StringComparer.Ordinal));
        Assert.Equal(3, mixer.ParametersWithoutWeightDecay.Count());
        Assert.Same(mixer.get_parameter("out_proj.weight"), Assert.Single(mixer.ResidualOutputWeights));
    }

    [Fact]
    public void TomlKeysReachTheOptions()
    {
        var model = HybridConfig.Parse(
            """
            [model]
            hidden_size = 48
            backbone = "mamba2"
            [model.mamba2]
            d_state = 32
            d_conv = 3
            expand_factor = 3
            head_dim = 12
            n_groups = 4
            chunk_size = 128
            dt_min = 0.002
            dt_max = 0.2
            dt_init_floor = 0.001
            dt_limit_min = 0.01
            dt_limit_max = 2.5
            use_conv_bias = false
            use_bias = true
            norm_groups = 4
            norm_before_gate = true
            norm_eps = 1e-6
            """).Model!;
        var expected = new Mamba2Options
        {
            DState = 32, DConv = 3, ExpandFactor = 3, HeadDim = 12, NGroups = 4, ChunkSize = 128, DtMin = 0.002, DtMax = 0.2, DtInitFloor = 0.001,
            DtLimitMin = 0.01, DtLimitMax = 2.5, UseConvBias = false, UseBias = true, NormGroups = 4, NormBeforeGate = true, NormEps = 1e-6,
        };
        Assert.Equal(expected, model.Mixers["mamba2"]);

        var error = Assert.Throws<HybridConfigException>(
            () => HybridConfig.Parse("[model]\nhidden_size = 48\nbackbone = \"mamba2\"\n[model.mamba2]\nhead_dim = 36"));
        Assert.Contains("must divide the inner width, 96; got 36", error.Message, StringComparison.Ordinal);
    }

    /// <summary>The mixer of a case, with its weights.</summary>
    private static Mamba2Mixer MixerOf(GoldenCase golden)
    {
        const string prefix = "in.param.";
        var width = golden.Get("in.x").size(2);
        var (heads, headWidth) = (golden.Flag("heads")!.Value.GetInt64(), golden.Flag("head_dim")!.Value.GetInt64());
        var groups = golden.Flag("n_groups")!.Value.GetInt64();
        var mixer = new Mamba2Mixer(width, new Mamba2Options
        {
            DState = golden.Flag("d_state")!.Value.GetInt64(),
            DConv = golden.Get(prefix + "conv1d.weight").size(2),
            ExpandFactor = heads * headWidth / width,
            HeadDim = headWidth,
            NGroups = groups,
            UseBias = golden.Has(prefix + "in_proj.bias"),
            UseConvBias = golden.Has(prefix + "conv1d.bias"),
            NormGroups = golden.Flag("norm")!.Value.GetString()!.StartsWith("per group", StringComparison.Ordinal) ? groups : 1,
            NormEps = golden.Flag("eps")!.Value.GetDouble(),
        });
        var (missing, unexpected) = mixer.load_state_dict(
            golden.Names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal)).ToDictionary(name => name[prefix.Length..], golden.Get));
        Assert.Empty(missing);
        Assert.Empty(unexpected);
        return mixer;
    }
}
