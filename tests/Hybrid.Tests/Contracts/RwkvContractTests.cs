using Hybrid.Kernels;
using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class RwkvContractTests : MixerContractTests
{
    public override string RegistryName => "rwkv";

    protected override SequenceMixer Create() => new RwkvMixer(12);
}

public class WideRwkvContractTests : MixerContractTests
{
    public override string RegistryName => "rwkv";

    protected override SequenceMixer Create() => new RwkvMixer(10, new RwkvOptions { AttentionHiddenSize = 17 });
}

public class Rwkv4ContractTests : MixerContractTests
{
    public override string RegistryName => "rwkv";

    protected override SequenceMixer Create() => new RwkvMixer(12, new RwkvOptions { Form = WkvForm.Rwkv4, AttentionHiddenSize = 7 });
}

public class RwkvChannelMixContractTests : MixerContractTests
{
    public override string RegistryName => "rwkv_channel_mix";

    protected override SequenceMixer Create() => new RwkvChannelMixer(12);
}

public class NarrowRwkvChannelMixContractTests : MixerContractTests
{
    public override string RegistryName => "rwkv_channel_mix";

    protected override SequenceMixer Create() => new RwkvChannelMixer(10, new RwkvChannelOptions { IntermediateSize = 7 });
}
