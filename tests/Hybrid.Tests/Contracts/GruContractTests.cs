using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class GruContractTests : MixerContractTests
{
    public override string RegistryName => "gru";

    protected override SequenceMixer Create() => new GruMixer(12);
}

public class StackedGruContractTests : MixerContractTests
{
    public override string RegistryName => "gru";

    protected override SequenceMixer Create() => new GruMixer(10, new GruOptions { InnerSize = 14, NumLayers = 2 });
}

public class GruWithoutBiasContractTests : MixerContractTests
{
    public override string RegistryName => "gru";

    protected override SequenceMixer Create() => new GruMixer(8, new GruOptions { InnerSize = 5, UseBias = false });
}
