using Hybrid.Layers;
using Xunit;

namespace Hybrid.Tests.Layers;

public class MixtureOfExpertsOptionsTests
{
    public static TheoryData<string, MixtureOfExpertsOptions> BadOptions => new()
    {
        { "NumExperts must be at least 1; got 0", new() { NumExperts = 0 } },
        { "TopK must be 1..8; got 0", new() { TopK = 0 } },
        { "TopK must be 1..3; got 4", new() { NumExperts = 3, TopK = 4 } },
        { "IntermediateSize must be at least 1; got 0", new() { IntermediateSize = 0 } },
        { "SharedExpertIntermediateSize must be at least 1; got -1", new() { SharedExpertIntermediateSize = -1 } },
        { "ExpertEvery must be at least 1; got 0", new() { ExpertEvery = 0 } },
        { "ExpertOffset must be 0..1; got 2", new() { ExpertEvery = 2, ExpertOffset = 2 } },
        { "RouterAuxLossCoefficient must be at least 0; got -1", new() { RouterAuxLossCoefficient = -1 } },
        { "RoutedScale must be positive; got 0", new() { RoutedScale = 0 } },
        { "NumGroups must be at least 1; got 0", new() { NumGroups = 0 } },
        { "TopGroups must be 1..1; got 2", new() { TopGroups = 2 } },
    };

    public static TheoryData<string, MixtureOfExpertsOptions> OptionsThatDoNotFit => new()
    {
        { "ExpertKind must be Swiglu or SquaredRelu, which have no biases; got Gelu", new() { ExpertKind = FeedForwardKind.Gelu } },
        { "NumGroups needs Weighting SigmoidTopkRenormalised; got SoftmaxThenTopk", new() { NumGroups = 2 } },
        { "NumGroups must cut the 8 experts into equal groups of at least 2; got 3", Sigmoid with { NumGroups = 3 } },
        { "NumGroups must cut the 8 experts into equal groups of at least 2; got 8", Sigmoid with { NumGroups = 8 } },
        { "TopK must be at most the 4 experts of 2 of the 4 groups; got 5", Sigmoid with { TopK = 5, NumGroups = 4, TopGroups = 2 } },
    };

    private static MixtureOfExpertsOptions Sigmoid { get; } = new() { Weighting = ExpertWeighting.SigmoidTopkRenormalised };

    [Theory]
    [MemberData(nameof(OptionsThatDoNotFit))]
    public void OptionsThatDoNotFitEachOtherAreNamed(string text, MixtureOfExpertsOptions options)
    {
        var error = Assert.Throws<ArgumentException>(() => new MixtureOfExperts(8, options));
        Assert.Equal($"MixtureOfExpertsOptions: {text}.", error.Message);
    }

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void OptionsOutOfRangeAreNamed(string text, MixtureOfExpertsOptions options)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => new MixtureOfExperts(8, options));
        Assert.StartsWith($"MixtureOfExpertsOptions.{text}.", error.Message, StringComparison.Ordinal);
    }
}
