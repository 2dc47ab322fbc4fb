using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class GriffinContractTests : MixerContractTests
{
    public override string RegistryName => "griffin_lru";

    protected override SequenceMixer Create() => new GriffinMixer(12);
}

public class WideGriffinContractTests : MixerContractTests
{
    public override string RegistryName => "griffin_lru";

    protected override SequenceMixer Create() => new GriffinMixer(10, new GriffinOptions { LruWidth = 15, NumHeads = 3, DConv = 3 });
}

public class BareGriffinContractTests : MixerContractTests
{
    public override string RegistryName => "griffin_lru";

    protected override SequenceMixer Create() => new GriffinMixer(12, new GriffinOptions { BareRecurrence = true, NumHeads = 2 });
}
