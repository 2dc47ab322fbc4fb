using Hybrid.Layers;
using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class MambaMixerTests
{
    // The cases were computed in float32 by another implementation, in another order of additions, over 23 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<string> Cases => GoldenCases.Of("mamba_mixer");

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var golden = GoldenCases.Load("mamba_mixer", name);
        using var mixer = new MambaMixer(golden.Get("in.x").size(2), OptionsOf(golden));
        Load(mixer, golden);
        GoldenMixer.CheckOutputAndGradients(golden, mixer, name, Tolerance);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void SingleStepsEqualTheReferenceImplementation(string name)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var golden = GoldenCases.Load("mamba_mixer", name);
        using var mixer = new MambaMixer(golden.Get("in.x").size(2), OptionsOf(golden));
        Load(mixer, golden);
        GoldenMixer.CheckSingleSteps(golden, mixer, name, Tolerance);
    }

    [Theory]
    [InlineData(null, null)]
    [InlineData(0.02, null)]
    [InlineData(null, 0.03)]
    [InlineData(0.01, 0.02)]
    public void EqualsTheRecurrenceOfThePaper(double? limitMin, double? limitMax)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        var options = new MambaOptions
        {
            DState = 3, DConv = 3, ExpandFactor = 3, DtRank = 2, UseBias = true, DtLimitMin = limitMin, DtLimitMax = limitMax,
        };
        manual_seed(5);
        using var mixer = new MambaMixer(5, options);
        var x = Values.Normal(6, 1, 17, 5);
        var expected = new NaiveMamba(mixer, options).Run(Values.Of(x));
        TensorAssert.Close(Values.Tensor32(expected, 1, 17, 5), mixer.call(x), Tolerance, "y");
    }

    [Fact]
    public void AStepLimitChangesTheOutput()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var free = new MambaMixer(8);
        using var limited = new MambaMixer(8, new MambaOptions { DtLimitMin = 0.2, DtLimitMax = 0.3 });
        limited.load_state_dict(free.state_dict());
        var x = Values.Normal(7, 1, 9, 8);
        Assert.True(TensorAssert.RelativeError(free.call(x), limited.call(x)) > 1e-3);
    }

    [Theory]
    [InlineData(Activation.Identity)]
    [InlineData(Activation.Gelu)]
    [InlineData(Activation.Relu)]
    public void TheActivationOfTheConvolutionIsAnOption(Activation activation)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var usual = new MambaMixer(8);
        using var other = new MambaMixer(8, new MambaOptions { Activation = activation });
        other.load_state_dict(usual.state_dict());
        var x = Values.Normal(7, 1, 9, 8);
        Assert.True(TensorAssert.RelativeError(usual.call(x), other.call(x)) > 1e-3);
    }

    /// <summary>Kernels round in their own ways, so equal bits mean that none ran; with them, some bits differ.</summary>
    [Fact]
    public void WithoutFusedKernelsOnlyTensorOperationsRun()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(9);
        using var fused = new MambaMixer(96, new MambaOptions { UseInnerNorms = true });
        using var plain = new MambaMixer(96, new MambaOptions { UseInnerNorms = true, UseFusedKernels = false });
        plain.load_state_dict(fused.state_dict());
        Tensor[] pieces = [Values.Normal(1, 2, 40, 96), Values.Normal(2, 2, 1, 96), Values.Normal(3, 2, 1, 96)];
        var reference = Run(plain, referenceOnly: true);
        TensorAssert.Identical(reference, Run(plain, referenceOnly: false), "without fused kernels");
        Assert.False(reference.eq(Run(fused, referenceOnly: false)).all().ToBoolean());

        Tensor Run(MambaMixer mixer, bool referenceOnly)
        {
            using var kernels = new KernelChoice(referenceOnly);
            var context = new MixerContext { State = mixer.CreateState(2) };
            return cat([.. pieces.Select(piece => mixer.forward(piece, context))], 1);
        }
    }

    [Fact]
    public void AConvolutionOfOneTapNeedsNoWindow()
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        using var mixer = new MambaMixer(4, new MambaOptions { DConv = 1 });
        using var state = (MambaState)mixer.CreateState(2);
        Assert.Equal([2, 0, 8], state.Convolution.shape);
        Assert.Equal([2, 8, 16], state.Recurrent.shape);
        Assert.Equal(2 * 8 * 16 * sizeof(float), state.ByteSize);
        var x = Values.Normal(8, 2, 6, 4);
        var steps = x.split(1, 1).Select(step => mixer.forward(step, new MixerContext { State = state })).ToArray();
        TensorAssert.Close(mixer.call(x), cat(steps, 1), Tolerance, "in single steps");
    }

    [Fact]
    public void DecayRatesSkipsAndStepBiasesHaveNoWeightDecay()
    {
        using var mixer = new MambaMixer(8);
        var names = mixer.named_parameters()
            .Where(entry => mixer.ParametersWithoutWeightDecay.Any(parameter => ReferenceEquals(parameter, entry.parameter))).Select(entry => entry.name);
        Assert.Equal(["A_log", "D", "dt_proj.bias"], names.Order(StringComparer.Ordinal));
        Assert.Equal(3, mixer.ParametersWithoutWeightDecay.Count());
    }

    [Fact]
    public void TheOutputProjectionWritesIntoTheResidualStream()
    {
        using var mixer = new MambaMixer(8);
        Assert.Same(mixer.get_parameter("out_proj.weight"), Assert.Single(mixer.ResidualOutputWeights));
    }

    private static MambaOptions OptionsOf(GoldenCase golden) => new()
    {
        DState = golden.Flag("d_state")!.Value.GetInt64(),
        DConv = golden.Flag("d_conv")!.Value.GetInt64(),
        ExpandFactor = golden.Flag("expand")!.Value.GetInt64(),
        DtRank = golden.Flag("dt_rank")!.Value.GetInt64(),
        UseBias = golden.Has("in.param.in_proj.bias"),
        UseConvBias = golden.Has("in.param.conv1d.bias"),
        UseInnerNorms = golden.Flag("inner_norms") is not null,
    };

    private static void Load(MambaMixer mixer, GoldenCase golden)
    {
        const string prefix = "in.param.";
        var weights = golden.Names.Where(name => name.StartsWith(prefix, StringComparison.Ordinal))
            .ToDictionary(name => name[prefix.Length..], golden.Get);
        var (missing, unexpected) = mixer.load_state_dict(weights);
        Assert.Empty(missing);
        Assert.Empty(unexpected);
    }
}
