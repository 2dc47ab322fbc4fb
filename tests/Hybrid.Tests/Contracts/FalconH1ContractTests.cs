using Hybrid.Attention;
using Hybrid.Mixers;

namespace Hybrid.Tests.Contracts;

public class FalconH1ContractTests : MixerContractTests
{
    public override string RegistryName => "falcon_h1";

    protected override SequenceMixer Create() => new FalconH1Mixer(12, new FalconH1Options
    {
        MambaConfig = new Mamba2Options
        {
            DState = 5, InnerSize = 18, HeadDim = 6, UseBias = true, UseOutputBias = false, UseNorm = false, InputMultiplier = 0.8,
            ProjectionMultipliers = [0.7, 1.1, 0.9, 1.4, 0.8],
        },
        AttentionConfig = new AttentionOptions { NumHeads = 3, NumKeyValueHeads = 1, KeyMultiplier = 0.6, UseOutputBias = true, WindowSize = 9 },
        MambaOutputMultiplier = 0.75,
        AttentionInputMultiplier = 0.9,
        AttentionOutputMultiplier = 1.2,
    });
}

public class GatedAttentionContractTests : MixerContractTests
{
    public override string RegistryName => "attention";

    protected override SequenceMixer Create() => new MultiHeadAttention(12, new AttentionOptions
    {
        NumHeads = 3, NumKeyValueHeads = 1, HeadDim = 6, UseOutputGate = true, QkRmsNorm = true,
    });
}

public class Zamba2ContractTests : MixerContractTests
{
    public override string RegistryName => "mamba2";

    protected override SequenceMixer Create() => new Zamba2Mixer(12, new Zamba2Options
    {
        MambaConfig = new Mamba2Options { DState = 5, HeadDim = 6, NGroups = 2, NormGroups = 2 },
        AttentionConfig = new AttentionOptions { NumHeads = 3, HeadDim = 8 },
        IntermediateSize = 10,
        AdapterRank = 2,
        UseAttentionAdapters = true,
        NormEps = 1e-5,
    });
}
