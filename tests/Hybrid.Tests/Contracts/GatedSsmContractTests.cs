using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class GatedSsmContractTests : MixerContractTests
{
    public override string RegistryName => "gated_ssm";

    protected override SequenceMixer Create() => new GatedSsmMixer(12);
}

public class GatedSsmWithConstantDecayContractTests : MixerContractTests
{
    public override string RegistryName => "gated_ssm";

    protected override SequenceMixer Create() => new GatedSsmMixer(
        10, new GatedSsmOptions { InputDependentDecay = false, ExpandFactor = 1, UseBias = true, TimescaleMin = 1.5, TimescaleMax = 30 });
}
