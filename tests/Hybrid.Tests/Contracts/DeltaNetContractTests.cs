using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class DeltaNetContractTests : MixerContractTests
{
    public override string RegistryName => "delta_net";

    protected override SequenceMixer Create() => new DeltaNetMixer(12, new DeltaNetOptions { NumHeads = 3 });
}

public class DeltaNetWithoutConvolutionContractTests : MixerContractTests
{
    public override string RegistryName => "delta_net";

    protected override SequenceMixer Create() => new DeltaNetMixer(
        10, new DeltaNetOptions { NumHeads = 2, HeadDim = 7, UseShortConv = false, AllowNegativeEigenvalues = true });
}

public class DeltaNetWithConvolutionBiasContractTests : MixerContractTests
{
    public override string RegistryName => "delta_net";

    protected override SequenceMixer Create() => new DeltaNetMixer(8, new DeltaNetOptions { NumHeads = 1, DConv = 2, UseConvBias = true });
}
