using Hybrid.Attention;
using Hybrid.Backbone;
using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class ParallelContractTests : MixerContractTests
{
    public override string RegistryName => "parallel";

    protected override SequenceMixer Create() => new ParallelMixer(
        12, new ParallelMixerOptions { MambaConfig = new() { DState = 4 }, AttentionConfig = new() { NumHeads = 3, WindowSize = 9 } });
}

public class ParallelOfOtherMixersContractTests : MixerContractTests
{
    public override string RegistryName => "parallel";

    protected override SequenceMixer Create() => new ParallelMixer(
        new GatedDeltaNetMixer(12, new GatedDeltaNetOptions { NumKeyHeads = 2, KeyHeadDim = 5 }),
        new MultiHeadAttention(12, new AttentionOptions { NumHeads = 2, NumKeyValueHeads = 1, UseRope = false }),
        gatePerChannel: false);
}
