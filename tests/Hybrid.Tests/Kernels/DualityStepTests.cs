using Hybrid.Mixers;
using Xunit;

namespace Hybrid.Tests.Kernels;

public class DualityStepTests : LayerStepTests
{
    public static TheoryData<int, long, Mamba2Options> Layers => new()
    {
        { 1, 32, new Mamba2Options { DState = 16, HeadDim = 16 } },
        { 2, 15, new Mamba2Options { DState = 5, HeadDim = 6, DConv = 3, UseConvBias = false } },
        { 3, 12, new Mamba2Options { DState = 1, HeadDim = 3, DConv = 1, ExpandFactor = 1, NGroups = 2 } },
        { 2, 48, new Mamba2Options { DState = 8, HeadDim = 8, NGroups = 3, NormGroups = 3, UseBias = true } },
        { 1, 20, new Mamba2Options { DState = 33, HeadDim = 4, NormBeforeGate = true } },
        { 9, 20, new Mamba2Options { DState = 19, HeadDim = 20, NormBeforeGate = true, NormGroups = 4 } },
        { 2, 24, new Mamba2Options { DState = 16, HeadDim = 8, UseNorm = false } },
        { 2, 24, new Mamba2Options { DState = 16, HeadDim = 8, DtLimitMin = 0.01, DtLimitMax = 0.05 } },
        { 2, 24, new Mamba2Options { DState = 16, HeadDim = 8, InputMultiplier = 2, ProjectionMultipliers = [1, 2, 0.5, 3, 0.7] } },
    };

    protected override string Name => "mamba2";

    protected override long BytesOfALayer => 6000;

    [Theory]
    [MemberData(nameof(Layers))]
    public void EqualsTheComposedForm(int batch, long width, Mamba2Options options) =>
        AssertEqualsTheComposedForm(batch, () => new Mamba2Mixer(width, options));

    protected override SequenceMixer Wide() => new Mamba2Mixer(64, new Mamba2Options { HeadDim = 16, DState = 20 });
}
