using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class GatedDeltaNetMixerTests
{
    // The cases come from another implementation, in another order of additions, over 23 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("gated_delta_net");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("gated_delta_net", name);
        using var mixer = Load(golden);
        GoldenMixer.CheckOutputAndGradients(golden, mixer, name, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void SingleStepsEqualTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("gated_delta_net", name);
        using var mixer = Load(golden);
        GoldenMixer.CheckSingleSteps(golden, mixer, name, Tolerance);
    }

    [Fact]
    public void TheStateIsOneMatrixAValueHeadAndOneWindow()
    {
        using var mixer = new GatedDeltaNetMixer(
            10, new GatedDeltaNetOptions { NumKeyHeads = 2, NumValueHeads = 6, KeyHeadDim = 5, ValueHeadDim = 3, DConv = 3 });
        using var state = (GatedDeltaNetState)mixer.CreateState(2);
        Assert.Equal([2, 6, 5, 3], state.Recurrent.shape);
        Assert.Equal([2, 2, 10 + 10 + 18], state.Convolution.shape);
    }

    [Fact]
    public void RatesStartInTheirRanges()
    {
        manual_seed(9);
        using var mixer = new GatedDeltaNetMixer(64, new GatedDeltaNetOptions { NumKeyHeads = 64, DtMin = 0.01, DtMax = 0.5 });
        var rates = Values.Of(mixer.get_parameter("A_log")!).Select(Math.Exp).ToArray();
        Assert.All(rates, rate => Assert.InRange(rate, 0.9999, 16.0001));
        Assert.True(rates.Min() < 3 && rates.Max() > 14, "64 uniform draws reach towards both ends");
        var steps = Values.Of(mixer.get_parameter("dt_bias")!).Select(bias => Math.Log(1 + Math.Exp(bias))).ToArray();
        Assert.All(steps, step => Assert.InRange(step, 0.01 * (1 - 1e-5), 0.5 * (1 + 1e-5)));
        Assert.True(steps.Min() < 0.02 && steps.Max() > 0.25, "64 log-uniform draws reach towards both ends");
    }

    [Fact]
    public void ParametersHaveTheNamesOfTheCheckpoints()
    {
        using var mixer = new GatedDeltaNetMixer(8);
        Assert.Equal(
            ["A_log", "conv1d.weight", "dt_bias", "in_proj_ba.weight", "in_proj_qkvz.weight", "norm.weight", "out_proj.weight"],
            mixer.state_dict().Keys.Order(StringComparer.Ordinal));
        Assert.Equal(
            ["A_log", "dt_bias"],
            mixer.named_parameters()
                .Where(entry => mixer.ParametersWithoutWeightDecay.Any(parameter => ReferenceEquals(parameter, entry.parameter)))
                .Select(entry => entry.name).Order(StringComparer.Ordinal));
        Assert.Same(mixer.get_parameter("out_proj.weight"), Assert.Single(mixer.ResidualOutputWeights));
    }

    public static TheoryData<string, GatedDeltaNetOptions> BadOptions => new()
    {
        { "NumKeyHeads must be at least 1; got 0", new GatedDeltaNetOptions { NumKeyHeads = 0 } },
        { "NumValueHeads must be at least 1; got 0", new GatedDeltaNetOptions { NumValueHeads = 0 } },
        { "NumValueHeads must be a multiple of the 4 key heads; got 6", new GatedDeltaNetOptions { NumValueHeads = 6 } },
        { "KeyHeadDim must be at least 1; got 0", new GatedDeltaNetOptions { KeyHeadDim = 0 } },
        { "ValueHeadDim must be at least 1; got -1", new GatedDeltaNetOptions { ValueHeadDim = -1 } },
        { "DConv must be at least 1; got 0", new GatedDeltaNetOptions { DConv = 0 } },
        { "DtMin must be positive; got 0", new GatedDeltaNetOptions { DtMin = 0 } },
        { "DtMax must be at least 0.001; got 0.0001", new GatedDeltaNetOptions { DtMax = 1e-4 } },
        { "NormEps must be positive; got 0", new GatedDeltaNetOptions { NormEps = 0 } },
        { "NumKeyHeads must divide the width 8 where KeyHeadDim is not given; got 3", new GatedDeltaNetOptions { NumKeyHeads = 3 } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, GatedDeltaNetOptions options)
    {
        var error = Assert.ThrowsAny<ArgumentException>(() => new GatedDeltaNetMixer(8, options));
        Assert.StartsWith($"GatedDeltaNetOptions.{text}.", error.Message, StringComparison.Ordinal);
    }

    private static GatedDeltaNetMixer Load(GoldenCase golden)
    {
        const string prefix = "in.param.";
        var mixer = new GatedDeltaNetMixer(golden.Get("in.x").size(2), new GatedDeltaNetOptions
        {
            NumKeyHeads = golden.Flag("k_heads")!.Value.GetInt64(),
            NumValueHeads = golden.Flag("v_heads")!.Value.GetInt64(),
            KeyHeadDim = golden.Flag("k_dim")!.Value.GetInt64(),
            ValueHeadDim = golden.Flag("v_dim")!.Value.GetInt64(),
            DConv = golden.Flag("conv")!.Value.GetInt64(),
            NormEps = golden.Flag("eps")!.Value.GetDouble(),
        });
        var weights = golden.Names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal))
            .ToDictionary(name => name[prefix.Length..], golden.Get);
        var (missing, unexpected) = mixer.load_state_dict(weights);
        Assert.Empty(missing);
        Assert.Empty(unexpected);
        return mixer;
    }
}
