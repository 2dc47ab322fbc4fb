using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class Mamba2ContractTests : MixerContractTests
{
    public override string RegistryName => "mamba2";

    protected override SequenceMixer Create() => new Mamba2Mixer(12, new Mamba2Options { DState = 5, HeadDim = 6, NGroups = 2, ChunkSize = 16 });
}

public class Mamba2WithBiasesAndLimitsContractTests : MixerContractTests
{
    public override string RegistryName => "mamba2";

    protected override SequenceMixer Create() => new Mamba2Mixer(
        10,
        new Mamba2Options
        {
            DState = 7, HeadDim = 5, ExpandFactor = 3, DConv = 3, UseBias = true, UseConvBias = false, DtLimitMin = 1e-3, DtLimitMax = 0.5,
            NormGroups = 3, NormBeforeGate = true, ChunkSize = 5,
        });
}

public class Mamba2OfOneHeadContractTests : MixerContractTests
{
    public override string RegistryName => "mamba2";

    protected override SequenceMixer Create() => new Mamba2Mixer(8, new Mamba2Options { DState = 3, HeadDim = 8, ExpandFactor = 1, DConv = 1 });
}
