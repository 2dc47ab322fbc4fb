using Hybrid.Attention;
using Hybrid.Tests.Contracts;

namespace Hybrid.Tests.Attention;

public class ChunkedAttentionContractTests : MixerContractTests
{
    public override string RegistryName => "attention";

    protected override SequenceMixer Create() => new MultiHeadAttention(
        12, new AttentionOptions { NumHeads = 6, NumKeyValueHeads = 2, WindowSize = 6, Mode = AttentionMode.Chunked, ChunkSize = 4 });
}

public class OnlineAttentionContractTests : MixerContractTests
{
    public override string RegistryName => "attention";

    protected override SequenceMixer Create() => new MultiHeadAttention(
        12, new AttentionOptions { NumHeads = 2, NumKeyValueHeads = 1, SoftCap = 0.8, Mode = AttentionMode.Online, ChunkSize = 5 });
}

public class CappedAttentionContractTests : MixerContractTests
{
    public override string RegistryName => "attention";

    protected override SequenceMixer Create() => new MultiHeadAttention(
        12,
        new AttentionOptions
        {
            NumHeads = 3,
            Scale = 0.9,
            SoftCap = 1.5,
            WindowSize = 7,
            RopeScaling = new() { Kind = RopeScalingKind.Yarn, Factor = 4, OriginalMaxPositionEmbeddings = 16 },
        });
}
