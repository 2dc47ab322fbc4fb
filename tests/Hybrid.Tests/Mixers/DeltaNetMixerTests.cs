using Hybrid.Mixers;
using Hybrid.Tests.Infrastructure;
using Hybrid.Tests.Layers;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace Hybrid.Tests.Mixers;

public class DeltaNetMixerTests
{
    // Float32 against double arithmetic, over 17 steps.
    private const double Tolerance = 1e-5;

    public static TheoryData<DeltaNetOptions> Variants => new(
        new DeltaNetOptions { NumHeads = 2, DConv = 3 },
        new DeltaNetOptions { NumHeads = 3, HeadDim = 4, UseConvBias = true },
        new DeltaNetOptions { NumHeads = 1, HeadDim = 5, UseShortConv = false, AllowNegativeEigenvalues = true });

    [Theory]
    [MemberData(nameof(Variants))]
    public void EqualsTheRecurrenceOfThePaper(DeltaNetOptions options)
    {
        using var scope = NewDisposeScope();
        using var guard = no_grad();
        manual_seed(5);
        using var mixer = new DeltaNetMixer(6, options);
        var x = Values.Normal(6, 1, 17, 6);
        var expected = new NaiveDeltaNet(mixer, options).Run(Values.Of(x));
        TensorAssert.Close(Values.Tensor32(expected, 1, 17, 6), mixer.call(x), Tolerance, "y");
    }

    [Fact]
    public void TheStateHoldsWindowsOnlyWithConvolutions()
    {
        using var with = new DeltaNetMixer(8, new DeltaNetOptions { NumHeads = 2, HeadDim = 3, DConv = 5 });
        using var state = (DeltaNetState)with.CreateState(2);
        Assert.Equal([2, 2, 3, 3], state.Recurrent.shape);
        Assert.Equal(3, state.Windows.Count);
        Assert.All(state.Windows, window => Assert.Equal([2, 4, 6], window.shape));

        using var without = new DeltaNetMixer(8, new DeltaNetOptions { UseShortConv = false });
        using var bare = (DeltaNetState)without.CreateState(2);
        Assert.Empty(bare.Windows);
    }

    [Fact]
    public void ParametersHaveTheNamesOfTheCheckpoints()
    {
        using var mixer = new DeltaNetMixer(8);
        Assert.Equal(
            [
                "b_proj.weight", "k_conv1d.weight", "k_proj.weight", "o_norm.weight", "o_proj.weight", "q_conv1d.weight", "q_proj.weight",
                "v_conv1d.weight", "v_proj.weight",
            ],
            mixer.state_dict().Keys.Order(StringComparer.Ordinal));
        Assert.Same(mixer.get_parameter("o_proj.weight"), Assert.Single(mixer.ResidualOutputWeights));
    }

    public static TheoryData<string, DeltaNetOptions> BadOptions => new()
    {
        { "NumHeads must be at least 1; got 0", new DeltaNetOptions { NumHeads = 0 } },
        { "HeadDim must be at least 1; got 0", new DeltaNetOptions { HeadDim = 0 } },
        { "DConv must be at least 1; got 0", new DeltaNetOptions { DConv = 0 } },
        { "NormEps must be positive; got -1", new DeltaNetOptions { NormEps = -1 } },
        { "NumHeads must divide the width 8 where HeadDim is not given; got 3", new DeltaNetOptions { NumHeads = 3 } },
    };

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, DeltaNetOptions options)
    {
        var error = Assert.ThrowsAny<ArgumentException>(() => new DeltaNetMixer(8, options));
        Assert.StartsWith($"DeltaNetOptions.{text}.", error.Message, StringComparison.Ordinal);
    }
}
