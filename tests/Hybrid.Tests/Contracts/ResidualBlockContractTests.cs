using Hybrid.Backbone;

namespace Hybrid.Tests.Contracts;

/// <summary>A block without a mixer is a layer of a stack as any other.</summary>
public class MlpBlockContractTests : MixerContractTests
{
    public override string RegistryName => LayerPattern.MlpName;

    protected override SequenceMixer Create() => new ResidualBlock(10, new BlockOptions { FeedForward = new() { IntermediateSize = 14 } });
}

public class ExpertsBlockContractTests : MixerContractTests
{
    public override string RegistryName => LayerPattern.ExpertsName;

    protected override SequenceMixer Create() => new ResidualBlock(
        10, new BlockOptions { MixtureOfExperts = new() { NumExperts = 3, TopK = 2, IntermediateSize = 7 } });
}
