using Hybrid.Kernels;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class GriffinMixerTests
{
    // The cases were computed in float64 by another implementation, over 23 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("griffin_block");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("griffin_block", name);
        using var mixer = Load(golden);
        GoldenMixer.CheckOutputAndGradients(golden, mixer, name, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void SingleStepsEqualTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("griffin_block", name);
        using var mixer = Load(golden);
        GoldenMixer.CheckSingleSteps(golden, mixer, name, Tolerance);
    }

    [Fact]
    public void TheBareRecurrenceIsTheUnitAlone()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new GriffinMixer(6, new GriffinOptions { BareRecurrence = true, NumHeads = 3 });
        var weights = mixer.state_dict();
        Assert.All(weights.Keys, name => Assert.StartsWith("rg_lru.", name, StringComparison.Ordinal));
        var x = Values.Normal(6, 2, 17, 6);
        var first = arange(17).eq(0).unsqueeze(0).repeat(2, 1);
        var (expected, _) = RgLru.Apply(
            x, weights["rg_lru.input_gate_weight"], weights["rg_lru.input_gate_bias"], weights["rg_lru.recurrent_gate_weight"],
            weights["rg_lru.recurrent_gate_bias"], weights["rg_lru.recurrent_param"], firstTokens: first);
        TensorAssert.Identical(expected, mixer.call(x), "y");

        // Nothing is decayed away and no multiplier dampens the first input.
        var gate = (x.narrow(1, 0, 1).reshape(2, 3, 1, 2).matmul(weights["rg_lru.input_gate_weight"]).reshape(2, 1, 6)).sigmoid();
        TensorAssert.Close(gate * x.narrow(1, 0, 1), mixer.call(x).narrow(1, 0, 1), 1e-6, "the first token");

        using var state = (GriffinState)mixer.CreateState(2);
        Assert.Null(state.Convolution);
        Assert.Equal(2 * 6 * sizeof(float), state.ByteSize);
        Assert.Empty(mixer.ResidualOutputWeights);
    }

    [Fact]
    public void OnlyRowsWithoutTokensForgetTheirState()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new GriffinMixer(6, new GriffinOptions { BareRecurrence = true });
        using var state = (GriffinState)mixer.CreateState(2);
        mixer.forward(Values.Normal(6, 2, 4, 6), new MixerContext { State = state });
        var before = state.Recurrent.clone();
        var gates = mixer.get_parameter("rg_lru.recurrent_gate_bias")!;
        gates.fill_(-1e4f);
        mixer.forward(zeros(2, 1, 6), new MixerContext { State = state });
        TensorAssert.Identical(before, state.Recurrent, "a closed gate keeps a state that has seen tokens");
    }

    [Fact]
    public void DecaysStartUniformBetweenTheirBounds()
    {
        manual_seed(9);
        using var mixer = new GriffinMixer(4096, new GriffinOptions { BareRecurrence = true, NumHeads = 1024 });

        // sigmoid(Lambda)^8 with Lambda = -p is the decay of an open gate.
        var decays = Values.Of(mixer.get_parameter("rg_lru.recurrent_param")!).Select(p => Math.Pow(Values.Sigmoid(-p), 8)).ToArray();
        Assert.All(decays, decay => Assert.InRange(decay, 0.9 - 1e-6, 0.999 + 1e-6));

        // Each of three bins has a third of 4096 uniform draws, give or take 4 standard deviations (30.2 each).
        for (var bin = 0; bin < 3; bin++)
        {
            Assert.InRange(decays.Count(decay => decay >= 0.9 + (bin * 0.033) && decay < 0.9 + ((bin + 1) * 0.033)), 1365 - 121, 1366 + 121);
        }
    }

    [Theory]
    [InlineData(256, null, 16)]
    [InlineData(12, null, 4)]
    [InlineData(7, null, 1)]
    [InlineData(12, 3, 3)]
    public void GatesHaveSixteenBlocksWhereTheyFit(long width, int? heads, long expected)
    {
        using var mixer = new GriffinMixer(width, new GriffinOptions { NumHeads = heads });
        Assert.Equal([expected, width / expected, width / expected], mixer.get_parameter("rg_lru.input_gate_weight")!.shape);
    }

    [Fact]
    public void DecaysAndGateBiasesHaveNoWeightDecay()
    {
        using var mixer = new GriffinMixer(8);
        var names = mixer.named_parameters()
            .Where(entry => mixer.ParametersWithoutWeightDecay.Any(parameter => ReferenceEquals(parameter, entry.parameter))).Select(entry => entry.name);
        Assert.Equal(["rg_lru.input_gate_bias", "rg_lru.recurrent_gate_bias", "rg_lru.recurrent_param"], names.Order(StringComparer.Ordinal));
        Assert.Same(mixer.get_parameter("linear_out.weight"), Assert.Single(mixer.ResidualOutputWeights));
    }

    public static TheoryData<string, GriffinOptions> BadOptions => new()
    {
        { "LruWidth must be at least 1; got 0", new GriffinOptions { LruWidth = 0 } },
        { "NumHeads must be at least 1; got 0", new GriffinOptions { NumHeads = 0 } },
        { "DConv must be at least 1; got 0", new GriffinOptions { DConv = 0 } },
        { "NumHeads must divide the width of the recurrence, 8; got 3", new GriffinOptions { NumHeads = 3 } },
        { "LruWidth of a bare recurrence must be the model width, 8; got 16", new GriffinOptions { BareRecurrence = true, LruWidth = 16 } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, GriffinOptions options)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new GriffinMixer(8, options));
        Assert.StartsWith($"GriffinOptions.{text}.", error.Message, StringComparison.Ordinal);
    }

    private static GriffinMixer Load(GoldenCase golden)
    {
        const string prefix = "in.param.";
        var options = new GriffinOptions
        {
            LruWidth = golden.Get("in.param.linear_x.weight").size(0),
            NumHeads = golden.Flag("heads")!.Value.GetInt64(),
            DConv = golden.Flag("conv")!.Value.GetInt64(),
        };
        var mixer = new GriffinMixer(golden.Get("in.x").size(2), options);
        var (missing, unexpected) = mixer.load_state_dict(
            golden.Names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal)).ToDictionary(name => name[prefix.Length..], golden.Get));
        Assert.Empty(missing);
        Assert.Empty(unexpected);
        return mixer;
    }
}
