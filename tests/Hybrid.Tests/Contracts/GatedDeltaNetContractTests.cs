using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class GatedDeltaNetContractTests : MixerContractTests
{
    public override string RegistryName => "gated_delta_net";

    protected override SequenceMixer Create() => new GatedDeltaNetMixer(12, new GatedDeltaNetOptions { NumKeyHeads = 3 });
}

public class GatedDeltaNetWithSharedKeysContractTests : MixerContractTests
{
    public override string RegistryName => "gated_delta_net";

    // The first outputs of an untrained mixer are small, and the norm of only three of them would enlarge their rounding beyond what
    // the contract allows; the larger epsilon keeps it from doing so.
    protected override SequenceMixer Create() => new GatedDeltaNetMixer(10, new GatedDeltaNetOptions
    {
        NumKeyHeads = 2, NumValueHeads = 6, KeyHeadDim = 5, ValueHeadDim = 3, DConv = 3, DtMin = 0.1, DtMax = 1, NormEps = 1e-3,
    });
}

public class GatedDeltaNetWithOneTapContractTests : MixerContractTests
{
    public override string RegistryName => "gated_delta_net";

    protected override SequenceMixer Create() => new GatedDeltaNetMixer(9, new GatedDeltaNetOptions { NumKeyHeads = 1, DConv = 1 });
}
