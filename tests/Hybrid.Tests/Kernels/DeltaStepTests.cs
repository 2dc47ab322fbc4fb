using Hybrid.Mixers;
using Xunit;

namespace Hybrid.Tests.Kernels;

public class DeltaStepTests : LayerStepTests
{
    public static TheoryData<int, long, GatedDeltaNetOptions> Layers => new()
    {
        { 1, 32, new GatedDeltaNetOptions() },
        { 2, 15, new GatedDeltaNetOptions { NumKeyHeads = 3, DConv = 3 } },
        { 3, 12, new GatedDeltaNetOptions { NumKeyHeads = 1, DConv = 1, KeyHeadDim = 5, ValueHeadDim = 7 } },
        { 2, 24, new GatedDeltaNetOptions { NumKeyHeads = 2, NumValueHeads = 6, KeyHeadDim = 9, ValueHeadDim = 16 } },
        { 9, 20, new GatedDeltaNetOptions { NumKeyHeads = 2, NumValueHeads = 4, KeyHeadDim = 3, ValueHeadDim = 33 } },
        { 1, 24, new GatedDeltaNetOptions { NumKeyHeads = 1, KeyHeadDim = 2, ValueHeadDim = 300 } },
    };

    protected override string Name => "gated_delta_net";

    protected override long BytesOfALayer => 6000;

    [Theory]
    [MemberData(nameof(Layers))]
    public void EqualsTheComposedForm(int batch, long width, GatedDeltaNetOptions options) =>
        AssertEqualsTheComposedForm(batch, () => new GatedDeltaNetMixer(width, options));

    protected override SequenceMixer Wide() => new GatedDeltaNetMixer(64, new GatedDeltaNetOptions { NumValueHeads = 8 });
}
